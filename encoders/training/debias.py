"""Click supervision and debiasing of visual encoding for CTR (arXiv 2205.04168, stages 2 and 3).

Both are our reading of accounts of the paper at second hand; its formulas were not at hand.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NONE: Final = -1


def align_rare(vectors: Tensor, shown: Tensor, categories: Tensor, *, often: float, neighbours: int = 5) -> Tensor:
    """Pulls each rarely shown item to what often shown items of its kind look like (stage 3).

    An item's target is the unit mean of the `neighbours` nearest often shown rows of its category in the batch, without
    gradient: the well-trained part of the space stays, the rest moves towards it. The cost 1 - cosine is weighed by rarity,
    1 - log(1 + shown) / log(1 + often), so that an item never shown counts in full.

    Args:
        vectors: (B, D) unit rows.
        shown: (B,) impressions or sales, at least 0.
        categories: (B,) int64; rows of an unknown one (< 0) have no part.
        often: rows shown at least so often are targets, the others are pulled.
        neighbours: at most so many rows make a target.

    Returns:
        A scalar: the mean over the rare rows that have a target; 0 with a gradient of zeros where there are none.
    """
    frequent = shown >= often
    known = categories >= 0
    alike = (categories[:, None] == categories[None, :]) & known[:, None] & ~frequent[:, None] & frequent[None, :]
    pulled = alike.any(dim=1)
    if not bool(pulled.any()):
        return vectors[:0].sum()
    fixed = vectors.detach()
    cosines = (fixed[pulled] @ fixed.T).masked_fill(~alike[pulled], float("-inf"))
    nearest = cosines.topk(min(max(neighbours, 1), len(vectors)), dim=1)
    there = torch.isfinite(nearest.values)
    total = (fixed[nearest.indices] * there[:, :, None]).sum(dim=1)
    target = torch.nn.functional.normalize(total, dim=1)
    counts = shown[pulled].to(vectors.dtype).clamp(min=0.0)
    rarity = 1.0 - torch.log1p(counts) / torch.log1p(torch.as_tensor(often, dtype=vectors.dtype, device=vectors.device))
    return (rarity * (1.0 - (vectors[pulled] * target).sum(dim=1))).mean()


class ClassPools:
    """Draws negatives of clicked items from a pool that knows classes (stage 2): those of the same class are the hard ones.

    Args:
        categories: (N,) int64 of all items; below 0 unknown, such an item's negatives come from everywhere.
        products: (N,) int64; items of one product are no negatives of each other. None: every item is its own product.
    """

    def __init__(self, categories: NDArray[np.int64], products: NDArray[np.int64] | None = None) -> None:
        self._categories = np.asarray(categories, np.int64)
        products = np.arange(len(self._categories)) if products is None else np.asarray(products, np.int64)
        self._everywhere = _Pool(np.zeros_like(self._categories), products)
        self._of_class = _Pool(self._categories, products)

    def draw(self, rows: NDArray[np.int64], share: float, random: np.random.Generator) -> NDArray[np.int64]:
        """A negative for each row.

        Args:
            rows: (B,) positives.
            share: probability of a negative of the same class; where the class has no other product, one from everywhere.
            random: the only source of randomness; two numbers a row.

        Returns:
            (B,) int64 rows; `NONE` where there is no other product at all.
        """
        inside, place = random.random((2, len(rows)))
        same = self._of_class.draw(rows, place)
        wanted = (inside < share) & (self._categories[rows] >= 0) & (same != NONE)
        return np.where(wanted, same, self._everywhere.draw(rows, place))


class _Pool:
    """Rows sorted by class and product, so that a class without one product is two runs of them."""

    def __init__(self, classes: NDArray[np.int64], products: NDArray[np.int64]) -> None:
        self.order = np.lexsort((products, classes)).astype(np.int64)
        self.low, self.high = self._runs(classes[:, None])
        self.own_low, self.own_high = self._runs(np.stack([classes, products], axis=1))

    def _runs(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First place and end of each row's run of equal keys in the order."""
        if not len(keys):
            return self.order, self.order
        _, number, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return (ends - counts)[number], ends[number]

    def draw(self, rows: NDArray[np.int64], place: NDArray[np.float64]) -> NDArray[np.int64]:
        if not len(rows):
            return np.zeros(0, np.int64)
        low, own = self.low[rows], self.own_high[rows] - self.own_low[rows]
        free = self.high[rows] - low - own
        at = low + np.minimum((place * free).astype(np.int64), np.maximum(free - 1, 0))
        at += np.where(at >= self.own_low[rows], own, 0)
        return np.where(free > 0, self.order[np.minimum(at, len(self.order) - 1)], NONE)
