"""Everything a model reads of one set of impressions, as tensors a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moontide.embeddings import Embeddings
from moontide.pit.histories import Histories, histories_of
from moontide.pit.impressions import Impressions
from moontide.pit.purchases import Purchases
from ranking.features import Standard, scalars, simtier
from ranking.splits import Split

Ints = NDArray[np.int64]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, slots=True)
class Examples:
    """Impressions with their features. `scalars` (I, F) and `tiers` (I, N + 1) or None are standardised on the training rows."""

    impressions: Impressions
    histories: Histories
    split: Split
    scalars: NDArray[np.float32]
    tiers: NDArray[np.float32] | None = None

    def users(self, rows: Ints) -> Ints:
        """(B,) user of each row."""
        return self.impressions.user[self.impressions.request[rows]]

    def batch(self, rows: Ints) -> Batch:
        """Arguments of `Din.forward` for these rows."""
        history, present = self.histories.padded(self.impressions.request[rows])
        # Most histories are shorter than L; columns that are padding in every row cost attention for nothing.
        first = int(np.argmax(present.any(axis=0))) if present.any() else present.shape[1] - 1
        tiers = None if self.tiers is None else torch.from_numpy(self.tiers[rows])
        return (
            torch.from_numpy(self.impressions.item[rows]), torch.from_numpy(history[:, first:]),
            torch.from_numpy(present[:, first:]), torch.from_numpy(self.scalars[rows]), tiers,
        )  # fmt: skip

    def labels(self, rows: Ints) -> NDArray[np.float32]:
        """(B,) labels."""
        return self.impressions.label[rows]


def make_examples(purchases: Purchases, impressions: Impressions, split: Split, *, length: int) -> Examples:
    """Features of the ID baseline."""
    histories = histories_of(purchases, impressions, length)
    values = scalars(purchases, impressions, histories)
    return Examples(impressions, histories, split, Standard.of(values[split.train])(values))


def with_simtier(examples: Examples, purchases: Purchases, vectors: Embeddings, *, tiers: int) -> Examples:
    """The same examples with SimTier counts of one space beside them."""
    found = simtier(purchases, examples.impressions, examples.histories, vectors, tiers=tiers)
    values = np.log1p(np.column_stack([found.counts, found.missing]).astype(np.float32))
    standard = Standard.of(values[examples.split.train])
    return Examples(examples.impressions, examples.histories, examples.split, examples.scalars, standard(values))
