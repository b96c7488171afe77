"""Pairs of baskets and files, and what is no wrong answer to a query."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from encoders.losses import info_nce_queue, unit  # noqa: E402
from encoders.training.behaviour import BasketPairs, Drawn, ListedPairs  # noqa: E402
from encoders.training.debias import ClassPools  # noqa: E402
from encoders.training.filter import nearest_other  # noqa: E402
from encoders.training.objectives import _itself  # noqa: E402
from encoders.transactions import Baskets  # noqa: E402

pytestmark = pytest.mark.unit


def test_a_hard_negative_of_a_basket_pair_is_a_third_item_of_the_category() -> None:
    pairs = BasketPairs(Baskets(np.array([0, 1, 1, 2]), np.array([0, 2, 4])), 4, np.array([5, 5, 5, -1]))
    drawn = pairs.draw(200, np.random.default_rng(0))
    assert set(drawn.negative) == {0, 2}
    assert not (drawn.negative == drawn.query_item).any() and not (drawn.negative == drawn.item).any()
    two = BasketPairs(Baskets(np.array([0, 1]), np.array([0, 2])), 2, np.array([5, 5]))
    assert set(two.draw(20, np.random.default_rng(0)).negative) == {-1}


def test_what_was_bought_comes_once() -> None:
    pairs = BasketPairs(Baskets(np.array([0, 1, 1, 2]), np.array([0, 2, 4])), 4, np.full(4, -1))
    drawn = pairs.bought(1000, np.random.default_rng(0))
    found = [*zip(drawn.query_item.tolist(), drawn.item.tolist(), strict=True)]
    assert len(found) == len(set(found)) and set(found) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert len(pairs.bought(1, np.random.default_rng(0)).item) == 1


def _drawn(queries: list[int], items: list[int]) -> Drawn:
    count = len(items)
    nothing = np.full(count, -1)
    return Drawn(
        np.array(queries), nothing, ["a cup"] * count, np.array(items), nothing, np.zeros(count, np.float32),
        np.ones(count, np.float32), np.full(count, np.nan),
    )  # fmt: skip


def test_purchases_of_listed_pairs_are_their_own() -> None:
    pairs = ListedPairs(_drawn([0, 1, 2], [1, 2, 0]), purchases=_drawn([2], [0]))
    assert pairs.bought(10, np.random.default_rng(0)).query_item.tolist() == [2]
    assert len(ListedPairs(_drawn([0, 1, 2], [1, 2, 0])).bought(2, np.random.default_rng(0)).item) == 2
    assert len(ListedPairs(_drawn([], [])).bought(2, np.random.default_rng(0)).item) == 0


def test_a_drawn_negative_is_never_the_query() -> None:
    pools = ClassPools(np.array([0, 0, 0]))
    drawn = ListedPairs(_drawn([0, 1], [1, 0]), pools).draw(100, np.random.default_rng(0))
    assert set(drawn.negative) <= {-1, 2} and (drawn.negative == 2).any()


def test_the_query_itself_is_no_negative_and_no_rival() -> None:
    torch.manual_seed(0)
    q, k = unit(torch.randn(3, 8)), unit(torch.randn(3, 8))
    asked, items = torch.tensor([7, -1, 5]), torch.tensor([5, 7, 9])
    k[1] = q[0]
    barred = _itself(asked, items)
    assert barred.tolist() == [[False, True, False], [False, False, False], [True, False, False]]
    rival, there = nearest_other(q, k, items, barred)
    assert rival[0] == 2 and there.all()
    logits = (q @ k.T / 0.1).masked_fill(barred, float("-inf"))
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3))
    got = info_nce_queue(q, k, k[:0], temperature=0.1, same=items, barred=barred)
    assert torch.allclose(got, expected)
