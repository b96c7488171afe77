"""Rare items move to their often shown kin; negatives come from the class as often as asked."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from encoders.towers import unit  # noqa: E402
from encoders.training.debias import NONE, ClassPools, align_rare  # noqa: E402

pytestmark = pytest.mark.unit


def _units(seed: int, rows: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return unit(torch.randn(rows, 4, generator=random, dtype=torch.float64)).requires_grad_()


@given(st.integers(0, 999), st.integers(0, 9), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_alignment_is_the_formula(seed: int, rows: int, neighbours: int) -> None:
    vectors, random = _units(seed, rows), np.random.default_rng(seed)
    shown, categories = random.integers(0, 20, rows), random.integers(-1, 3, rows)
    got = align_rare(vectors, torch.from_numpy(shown), torch.from_numpy(categories), often=10, neighbours=neighbours)
    x, found = vectors.detach().numpy(), []
    for n in range(rows):
        kin = [m for m in range(rows) if shown[m] >= 10 and categories[m] == categories[n] >= 0]
        if shown[n] >= 10 or not kin:
            continue
        best = sorted(kin, key=lambda m, n=n: -float(x[n] @ x[m]))[:neighbours]
        mean = x[best].sum(axis=0)
        weight = 1 - math.log1p(shown[n]) / math.log1p(10)
        found.append(weight * (1 - x[n] @ mean / np.linalg.norm(mean)))
    assert got.shape == () and got.item() == pytest.approx(np.mean(found) if found else 0.0, abs=1e-9)
    got.backward()
    assert torch.isfinite(vectors.grad).all()
    assert torch.count_nonzero(vectors.grad[torch.from_numpy(shown >= 10)]) == 0


def test_only_the_rare_move_and_they_move_nearer() -> None:
    vectors = _units(3, 3)
    shown, categories = torch.tensor([0, 50, 80]), torch.tensor([2, 2, 2])
    before = align_rare(vectors, shown, categories, often=10)
    before.backward()
    assert bool(vectors.grad[0].any()) and not bool(vectors.grad[1:].any())
    moved = unit(vectors.detach() - 0.1 * vectors.grad)
    assert align_rare(moved, shown, categories, often=10) < before


@given(st.integers(0, 999), st.integers(1, 12), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_negative_is_another_product_and_of_the_class_where_asked(seed: int, count: int, share: float) -> None:
    random = np.random.default_rng(seed)
    categories, products = random.integers(-1, 3, count), random.integers(0, 4, count)
    rows = random.integers(0, count, 20)
    pools = ClassPools(categories, products)
    drawn = pools.draw(rows, share, np.random.default_rng(seed))
    assert np.array_equal(drawn, pools.draw(rows, share, np.random.default_rng(seed)))
    always = pools.draw(rows, 1.0, np.random.default_rng(seed))
    for row, negative, kin in zip(rows, drawn, always, strict=True):
        others = np.flatnonzero(products != products[row])
        assert (negative == NONE) == (len(others) == 0)
        if negative != NONE:
            assert negative in others
        inside = [m for m in others if categories[m] == categories[row] >= 0]
        if inside:
            assert kin in inside


def test_shares_and_pools_are_even() -> None:
    categories = np.array([0, 0, 0, 1, 1, 1, 1])
    drawn = ClassPools(categories).draw(np.zeros(20_000, np.int64), 0.7, np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=7) / len(drawn)
    assert shares[0] == 0.0
    assert shares[1:3] == pytest.approx([0.35 + 0.05] * 2, abs=0.02) and shares[3:] == pytest.approx([0.05] * 4, abs=0.01)


def test_nobody_and_the_only_one() -> None:
    none = np.zeros(0, np.int64)
    assert ClassPools(none).draw(none, 0.5, np.random.default_rng(0)).shape == (0,)
    assert ClassPools(np.array([4])).draw(np.array([0]), 0.5, np.random.default_rng(0)).tolist() == [NONE]
