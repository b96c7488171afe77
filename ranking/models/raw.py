"""The raw frozen vector as side information: the plain way to give content to a ranker, and SimTier's control.

G groups, K candidates, L behaviours, E embedding width, W width of the projection (`ranking.batch`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking.batch import Batch
from ranking.models.attention import TargetAttention
from ranking.models.base import Side, SideOutput, SideWidths, VectorTable
from ranking.models.projection import Projection, with_vectors


class Raw(Side):
    """The candidate's projected vector, and the user's projected vectors pooled by target attention.

    Columns: target (W), and where pooled interest (W) and target * interest (W); last 1 where the candidate has no vector.

    Args:
        table: the vectors.
        width: W.
        attention: width of the attention's projections.
        pooled: False leaves the history out, e.g. beside `VectorAttention`, which pools it already.
    """

    def __init__(self, table: VectorTable, width: int = 32, attention: int = 32, *, pooled: bool = True) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__()
        self.project = Projection(table, width)
        self.attention = TargetAttention(width, attention) if pooled else None
        self.widths = SideWidths(entry=1 + (3 * width if pooled else width))

    def forward(self, batch: Batch) -> SideOutput:
        """Values of one batch; zeros stand for a candidate without a vector and for a history without any."""
        target, behaviours = self.project(batch)
        columns = [target]
        if self.attention is not None:
            interest = self.attention(target, behaviours, with_vectors(batch))
            columns += [interest, target * interest]
        columns.append((batch.vector == 0)[:, :, None].to(target.dtype))
        return SideOutput(torch.cat(columns, dim=2))


class VectorAttention(TargetAttention):
    """Target attention over id embeddings with the projected vector joined to each: "Vector" of arXiv 2407.19467, figure 9.

    Args:
        width: E; what comes out has it too.
        size: width of the attention's projections.
        table: the vectors.
        projected: W.
    """

    def __init__(self, width: int, size: int, table: VectorTable, projected: int = 32) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__(width + projected, size)
        self.value = nn.Linear(width + projected, width)
        self.project = Projection(table, projected)

    def forward(self, target: Tensor, behaviours: Tensor, batch: Batch) -> Tensor:
        """(G, K, E), as `TargetAttention`."""
        candidates, history = self.project(batch)
        return super().forward(torch.cat([target, candidates], dim=2), torch.cat([behaviours, history], dim=2), batch)
