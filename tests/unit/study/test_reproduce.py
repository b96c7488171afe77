"""Whether an encoder trained again is as good as the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.study.__main__ import main
from encoders.study.reproduce import Spread, measures_in, spread_of, worse
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

RECALL = "shop/titles recall_at_10"
SHARES = st.floats(0, 1)


def artifact(path: Path, recall: float, **more: float) -> str:
    path.mkdir()
    tasks = {"shop/titles": {"recall_at_10": recall, "queries": 40.0, **more}}
    (path / "manifest.json").write_text(json.dumps({"metrics": {"test": {"trained": tasks, "untrained": {}}}}))
    return str(path)


def spread(tmp_path: Path) -> str:
    seeds = [artifact(tmp_path / f"seed{at}", recall) for at, recall in enumerate((0.80, 0.81, 0.82))]
    assert main(["seeds", *seeds, "--out", str(tmp_path / "made" / "spread.json")]) == 0
    return str(tmp_path / "made" / "spread.json")


@pytest.mark.parametrize(("recall", "code", "word"), [(0.82, 0, "ok"), (0.771, 0, "ok"), (0.769, 1, "WORSE"), (0.0, 1, "WORSE")])
def test_it_may_be_worse_by_the_spread_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recall: float, code: int, word: str
) -> None:
    given = [
        artifact(tmp_path / "again", recall),
        "--shipped",
        artifact(tmp_path / "shipped", 0.805),
        "--spread",
        spread(tmp_path),
    ]
    assert main(["reproduce", *given]) == code
    said = capsys.readouterr()
    assert [cell.strip() for cell in said.out.splitlines()[2].split("|")[1:-1]] == [
        RECALL, "80.50", f"{100 * recall:.2f}", "81.00", "1.00", "77.00", word
    ]  # fmt: skip
    assert (f"{RECALL}: expected 0.770 or more" in said.err) is bool(code)


def test_a_measure_that_is_missing_is_worse() -> None:
    assert worse({}, {RECALL: Spread(0.0, 0.0)}) == [RECALL]
    assert worse({RECALL: float("nan")}, {RECALL: Spread(0.0, 0.0)}) == [RECALL]


@given(st.lists(SHARES, min_size=2, max_size=2))
def test_of_two_seeds_neither_is_worse(values: list[float]) -> None:
    runs = [{RECALL: value} for value in values]
    assert all(worse(run, spread_of(runs)) == [] for run in runs)


def test_queries_are_no_measure_and_only_common_ones_count(tmp_path: Path) -> None:
    runs = [measures_in(Path(artifact(tmp_path / name, 0.5, **more))) for name, more in (("a", {"map": 0.2}), ("b", {}))]
    assert sorted(runs[0]) == ["shop/titles map", RECALL]
    assert spread_of(runs) == {RECALL: Spread(0.5, 0.0)}


@pytest.mark.parametrize("count", [0, 1])
def test_a_spread_needs_two_seeds(count: int) -> None:
    with pytest.raises(Misconfigured, match=f"two seeds or more, got {count}"):
        spread_of([{RECALL: 0.5}] * count)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"measures": {}}', '{"measures": {"a": 1}}', '{"measures": {"a": {"mean": 1}}}']
)
def test_another_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    made = artifact(tmp_path / "a", 0.5)
    (tmp_path / "spread.json").write_text(text)
    assert main(["reproduce", made, "--shipped", made, "--spread", str(tmp_path / "spread.json")]) == 1
    assert "spread.json: expected" in capsys.readouterr().err
    (tmp_path / "a" / "manifest.json").write_text(text)
    with pytest.raises(Misconfigured, match="expected a"):
        measures_in(tmp_path / "a")
