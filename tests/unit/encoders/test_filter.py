"""The dynamic sample filter: its formula, its direction, and that it never drops everything."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from encoders.towers import unit  # noqa: E402
from encoders.training.filter import keep_pairs, margin_at, nearest_other  # noqa: E402

pytestmark = pytest.mark.unit


def _units(seed: int, rows: int) -> torch.Tensor:
    return unit(torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)))


def _pairs(gaps: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows with q.p - q.n equal to each gap."""
    query = torch.tensor([[1.0, 0.0]]).expand(len(gaps), 2)
    return query, torch.tensor([[gap, 0.0] for gap in gaps]).reshape(-1, 2), torch.zeros(len(gaps), 2)


def test_clear_pairs_are_kept_and_doubtful_ones_are_not() -> None:
    kept = keep_pairs(*_pairs([0.9, 0.35, 0.2, -0.5]), margin=0.3, sharpness=10.0, threshold=0.6)
    expected = [1 / (1 + math.exp(-10 * (gap - 0.3))) for gap in (0.9, 0.35, 0.2, -0.5)]
    assert kept.phi.tolist() == pytest.approx(expected, abs=1e-6)
    assert kept.mask.tolist() == [True, True, False, False]
    assert kept.share == 0.5 and kept.forced == 0.0


def test_a_falling_margin_lets_harder_pairs_in() -> None:
    late = keep_pairs(*_pairs([0.9, 0.35, 0.2, -0.5]), margin=margin_at(1.0, 0.3), sharpness=10.0)
    assert late.mask.tolist() == [True, True, True, False]
    margins = [margin_at(done / 10, 0.3) for done in range(11)]
    assert margins[0] == 0.3 and margins[5] == pytest.approx(0.15) and margins[10] == pytest.approx(0.0, abs=1e-12)
    assert margins == sorted(margins, reverse=True) and margin_at(2.0, 0.3) == margins[10]


def test_a_quarter_is_kept_when_all_are_doubtful_the_best_and_the_earlier_first() -> None:
    kept = keep_pairs(*_pairs([-0.9, -0.1, -0.5, -0.1, -0.9]), margin=0.3, sharpness=10.0)
    assert kept.mask.tolist() == [False, True, False, True, False]
    assert kept.share == kept.forced == 0.4
    assert keep_pairs(*_pairs([-0.9]), margin=0.3, sharpness=10.0).mask.tolist() == [True]


def test_pairs_without_a_negative_are_not_judged() -> None:
    valid = torch.tensor([False, True, True])
    kept = keep_pairs(*_pairs([-0.9, 0.9, -0.9]), margin=0.3, sharpness=10.0, valid=valid)
    assert kept.mask.tolist() == [True, True, False] and kept.share == 0.5 and kept.phi[0] == 1.0
    nobody = keep_pairs(*_pairs([-0.9]), margin=0.3, sharpness=10.0, valid=torch.tensor([False]))
    assert nobody.mask.tolist() == [True] and nobody.share == 1.0
    nothing = keep_pairs(*_pairs([]), margin=0.3, sharpness=10.0)
    assert nothing.mask.shape == (0,) and nothing.share == 1.0


def test_a_phi_that_is_no_number_is_not_trusted() -> None:
    kept = keep_pairs(*_pairs([math.nan, 0.9, 0.9, 0.9]), margin=0.3, sharpness=10.0)
    assert kept.mask.tolist() == [False, True, True, True]


@given(st.lists(st.floats(-1, 1), max_size=12), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_at_least_as_good_as_what_is_not(gaps: list[float], margin: float, threshold: float) -> None:
    kept = keep_pairs(*_pairs(gaps), margin=margin, sharpness=5.0, threshold=threshold)
    assert int(kept.mask.sum()) >= math.ceil(len(gaps) / 4)
    assert bool(kept.mask[kept.phi >= threshold].all())
    if 0 < int(kept.mask.sum()) < len(gaps):
        assert kept.phi[kept.mask].min() >= kept.phi[~kept.mask].max()


@given(st.integers(0, 999), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_the_nearest_other_is_found(seed: int, rows: int) -> None:
    query, positive = _units(seed, rows), _units(seed + 1, rows)
    same = torch.randint(0, 3, (rows,), generator=torch.Generator().manual_seed(seed))
    found, there = nearest_other(query, positive, same)
    for n in range(rows):
        others = [m for m in range(rows) if same[m] != same[n]]
        assert bool(there[n]) == bool(others)
        if others:
            best = max(float(query[n] @ positive[m]) for m in others)
            assert float(query[n] @ positive[int(found[n])]) == pytest.approx(best, abs=1e-6) and int(found[n]) in others
