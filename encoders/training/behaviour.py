"""Pairs that behaviour made: from a file of `jobs/training_pairs.py`, or from the baskets of the sales log itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.training.corpus import UNKNOWN
from encoders.training.debias import ClassPools
from encoders.transactions import Baskets

_SMOOTH: Final = 1e-6
#: Of negatives drawn for click pairs, how many are of the clicked item's class.
CLASS_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """B pairs of one draw; items are rows of the corpus, -1 where there is none.

    Attributes:
        query_item, query_picture: (B,) int64; of item, picture and text exactly one is given.
        query_text: B texts or None.
        item, negative: (B,) int64, what was bought, and what was not.
        log_q: (B,) float32, log probability with which the bought item is drawn.
        weight: (B,) float32.
        days: (B,) float64, when, in days since 1970; NaN where unknown.
    """

    query_item: NDArray[np.int64]
    query_picture: NDArray[np.int64]
    query_text: Sequence[str | None]
    item: NDArray[np.int64]
    negative: NDArray[np.int64]
    log_q: NDArray[np.float32]
    weight: NDArray[np.float32]
    days: NDArray[np.float64]


class Behaviour(Protocol):
    """A source of pairs."""

    def __len__(self) -> int: ...

    def draw(self, count: int, random: np.random.Generator) -> Drawn:
        """`count` pairs, with repetition."""
        ...

    def bought(self, most: int, random: np.random.Generator) -> Drawn:
        """At most `most` pairs of what was bought, each once."""
        ...


class BasketPairs:
    """Two different items of one basket, baskets drawn evenly, so that a wholesaler's order counts as one."""

    def __init__(self, baskets: Baskets, items: int, categories: NDArray[np.int64]) -> None:
        self.baskets = baskets
        self.categories = categories
        sizes = np.diff(baskets.offsets)
        share = np.bincount(baskets.items, weights=np.repeat(1.0 / sizes, sizes), minlength=items) / max(len(sizes), 1)
        self.log_q = np.log(share + _SMOOTH).astype(np.float32)
        self.members = _members(categories)

    def __len__(self) -> int:
        return len(self.baskets.items)

    def draw(self, count: int, random: np.random.Generator) -> Drawn:
        """As `Behaviour`; the hard negative is a third item of the bought one's category, where it has one."""
        offsets = self.baskets.offsets
        chosen = random.integers(len(offsets) - 1, size=count)
        start, size = offsets[chosen], np.diff(offsets)[chosen]
        first = random.integers(size)
        second = (first + 1 + random.integers(size - 1)) % size
        query, item = self.baskets.items[start + first], self.baskets.items[start + second]
        return Drawn(
            query, np.full(count, UNKNOWN), [None] * count, item, self._other(query, item, random), self.log_q[item],
            np.ones(count, np.float32), np.full(count, np.nan),
        )  # fmt: skip

    def bought(self, most: int, random: np.random.Generator) -> Drawn:
        """As `Behaviour`."""
        drawn = self.draw(min(most, 4 * len(self)), random)
        first = np.unique(np.stack([drawn.query_item, drawn.item]), axis=1, return_index=True)[1]
        return ListedPairs(drawn).take(np.sort(first))

    def _other(self, queries: NDArray[np.int64], items: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        found = np.full(len(items), UNKNOWN)
        for at, (query, item) in enumerate(zip(queries, items, strict=True)):
            mates = self.members.get(int(self.categories[item]), np.zeros(0, np.int64))
            others = mates[(mates != item) & (mates != query)]
            if len(others):
                found[at] = others[random.integers(len(others))]
        return found


class ListedPairs:
    """Pairs of a file, drawn by their weights.

    Args:
        pairs: as they were read.
        pools: where pairs without a hard negative get one, half of the time of the bought item's class (class-aware negatives
            of click-supervised pairs, arXiv 2205.04168); None: they have none.
        purchases: those of `pairs` that were bought, each once; None: all of them.
    """

    def __init__(self, pairs: Drawn, pools: ClassPools | None = None, *, purchases: Drawn | None = None) -> None:
        self.pairs, self.pools = pairs, pools
        self.purchases = pairs if purchases is None else purchases
        weights = np.maximum(pairs.weight.astype(np.float64), 0.0)
        self.reach = np.cumsum(weights) / max(weights.sum(), _SMOOTH)

    def __len__(self) -> int:
        return len(self.pairs.item)

    def draw(self, count: int, random: np.random.Generator) -> Drawn:
        """As `Behaviour`."""
        rows = np.minimum(np.searchsorted(self.reach, random.random(count), side="right"), len(self) - 1)
        drawn = self.take(rows, weight=np.ones(count, np.float32))
        if self.pools is None:
            return drawn
        others = self.pools.draw(drawn.item, CLASS_SHARE, random)
        others[others == drawn.query_item] = UNKNOWN
        return replace(drawn, negative=np.where(drawn.negative >= 0, drawn.negative, others))

    def bought(self, most: int, random: np.random.Generator) -> Drawn:
        """As `Behaviour`."""
        count = len(self.purchases.item)
        rows = np.arange(count) if count <= most else np.sort(random.choice(count, size=most, replace=False))
        return ListedPairs(self.purchases).take(rows)

    def take(self, rows: NDArray[np.int64], weight: NDArray[np.float32] | None = None) -> Drawn:
        """These pairs."""
        p = self.pairs
        return Drawn(
            p.query_item[rows], p.query_picture[rows], [p.query_text[row] for row in rows], p.item[rows], p.negative[rows],
            p.log_q[rows], p.weight[rows] if weight is None else weight, p.days[rows],
        )  # fmt: skip


def share_of(baskets: Baskets, share: float, random: np.random.Generator) -> Baskets:
    """A random share of the baskets, at least one: for studies of how much data is enough."""
    if share >= 1.0:
        return baskets
    kept = random.random(len(baskets.offsets) - 1) < share
    kept[0] |= not kept.any()
    sizes = np.diff(baskets.offsets)
    return Baskets(baskets.items[np.repeat(kept, sizes)], np.concatenate([[0], np.cumsum(sizes[kept])]).astype(np.int64))


def _members(categories: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(categories, kind="stable")
    known, starts = np.unique(categories[order], return_index=True)
    return {int(name): rows for name, rows in zip(known, np.split(order, starts[1:]), strict=True) if name != UNKNOWN}
