"""SimTier (arXiv 2407.19467, section 4.1): counts of behaviours per tier of similarity, as a ranking model reads them.

The counts come from the kernel that serving uses (`moontide.simtier`); here are ``log1p`` and the learned weights (MUSE, arXiv
2512.07216, released code). N fine tiers, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moontide.errors import Misconfigured
from moontide.simtier import merge_tiers
from ranking.batch import Batch
from ranking.models.base import Side, SideOutput, SideWidths, Standardise, Statistics


class SimTier(Side):
    """Standardised ``log1p`` counts, each times a learned embedding of its tier, and `missing` likewise.

    Args:
        tiers: N of `Batch.counts`.
        resolutions: how many fine tiers make one of each resolution. Tiers are right-closed, so that a sum of neighbours is the
            count of the wider tier (but for cosines within a rounding of an edge, `moontide.simtier`).
        width: of a tier's embedding; 1: one weight a tier, as released.
        cumulative: adds, for each fine tier, the behaviours in it or above.

    Raises:
        Misconfigured: no tiers, no resolutions, or one that does not divide N.
    """

    def __init__(self, tiers: int, resolutions: Sequence[int] = (1,), width: int = 1, *, cumulative: bool = False) -> None:
        """Weights of a width above 1 come from torch's global generator: seed it first."""
        super().__init__()
        if not resolutions or tiers < 1 or any(group < 1 or tiers % group for group in resolutions):
            raise Misconfigured(f"SimTier: expected resolutions that divide {tiers} tiers, got {tuple(resolutions)}")
        self.resolutions = tuple(resolutions)
        self.cumulative = cumulative
        columns = sum(tiers // group for group in resolutions) + (tiers if cumulative else 0) + 1
        self.standard = Standardise(columns)
        self.weight = nn.Parameter(torch.ones(columns, 1) if width == 1 else torch.rand(columns, width))
        self.widths = SideWidths(entry=columns * width)

    def learn_from(self, statistics: Statistics) -> None:
        """Standardise the columns."""
        self.standard.learn(torch.log1p(self.columns(statistics.sample.counts[statistics.sample.valid])))

    def forward(self, batch: Batch) -> SideOutput:
        """(G, K, T * width)."""
        values = self.standard(torch.log1p(self.columns(batch.counts)))
        return SideOutput((values[..., None] * self.weight).flatten(2))

    def columns(self, counts: Tensor) -> Tensor:
        """(..., T) counts of each resolution, cumulative counts if any, `missing` last; of (..., N + 1)."""
        fine, missing = counts[..., :-1], counts[..., -1:]
        parts = [fine if group == 1 else merge_tiers(fine, group) for group in self.resolutions]
        if self.cumulative:
            parts.append(fine.flip(-1).cumsum(dim=-1).flip(-1))
        return torch.cat([*parts, missing], dim=-1)
