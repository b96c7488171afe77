"""Mean and maximal similarity: the scalars that SimTier must beat ("SimScore" of arXiv 2407.19467)."""

from __future__ import annotations

import torch
from torch import Tensor

from ranking.batch import Batch
from ranking.models.base import Side, SideOutput, SideWidths, Standardise, Statistics, VectorTable, similarities


class Similarity(Side):
    """Mean and maximum of the cosines between the candidate and the behaviours, standardised.

    Columns: mean, max, with ``last`` the mean over the newest behaviours; then two flags: the candidate has no vector, and
    there is no behaviour to compare with. The scalars are 0 (the mean of training) where there is nothing to compare with.

    Args:
        table: the vectors.
        last: how many of the newest behaviours the third scalar reads; 0: no third scalar.
    """

    def __init__(self, table: VectorTable, last: int = 0) -> None:
        super().__init__()
        self.table = table
        self.last = last
        scalars = 3 if last else 2
        self.standard = Standardise(scalars)
        self.widths = SideWidths(entry=scalars + 2)

    def learn_from(self, statistics: Statistics) -> None:
        """Standardise by the candidates that have something to compare with."""
        scalars, there = self.scalars(statistics.sample)
        self.standard.learn(scalars[statistics.sample.valid & there])

    def forward(self, batch: Batch) -> SideOutput:
        """Values of one batch."""
        scalars, there = self.scalars(batch)
        scaled = self.standard(scalars) * there[:, :, None]
        flags = torch.stack([batch.vector == 0, ~there], dim=2).to(scaled.dtype)
        return SideOutput(torch.cat([scaled, flags], dim=2))

    def scalars(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(G, K, 2 or 3) float32 cosines as they are, and (G, K) bool where there is a behaviour to compare with.

        The third is the mean of all where none of the newest can be compared with.
        """
        cosines, comparable = similarities(self.table, batch)
        there = comparable.any(dim=2)
        # One column below every cosine: the maximum over a history of no columns is defined too.
        most = torch.nn.functional.pad(cosines.masked_fill(~comparable, -2.0), (1, 0), value=-2.0).amax(dim=2)
        columns = [_mean(cosines, comparable), torch.where(there, most, torch.zeros_like(most))]
        if self.last:
            length = batch.present.shape[1]
            newest = comparable & (torch.arange(length, 0, -1, device=cosines.device) <= self.last)
            columns.append(torch.where(newest.any(dim=2), _mean(cosines * newest, newest), columns[0]))
        return torch.stack(columns, dim=2), there


def _mean(cosines: Tensor, comparable: Tensor) -> Tensor:
    return cosines.sum(dim=2) / comparable.sum(dim=2).clamp(min=1)
