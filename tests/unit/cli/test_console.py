import pytest

from moontide.cli.console import one_line, size, spark_bars, table

pytestmark = pytest.mark.unit


def test_a_table_of_nothing_is_nothing():
    assert table([]) == []


def test_columns_are_aligned_and_lines_carry_no_trailing_space():
    lines = table([["a", "1", ""], ["long", "234", "x"]], head=["name", "n", "note"], right=(1,))
    assert lines == ["name    n  note", "a       1", "long  234  x"]


@pytest.mark.parametrize(("counts", "drawn"), [([], ""), ([0, 0], "  "), ([0, 1, 8], " ▁█"), ([3], "█")])
def test_bars_rise_with_the_counts_and_a_single_behaviour_is_never_invisible(counts, drawn):
    assert spark_bars(counts) == drawn


def test_one_behaviour_among_a_thousand_is_drawn():
    assert spark_bars([1, 1000])[0] != " "


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (12_300_000, "12.3 MB"), (5e12, "5000.0 GB")]
)
def test_sizes(count, text):
    assert size(count) == text


def test_one_line():
    assert one_line("a\n  b\tc ") == "a b c"
