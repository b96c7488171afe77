"""Target attention over behaviours, in the form of MUSE's released code (arXiv 2512.07216, `MultiHeadAttV2`, one head)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from ranking.batch import Batch

NOTHING: Final = -1e9
#: Positions in the history share a bias by the power of two they lie in: up to 2^16 behaviours.
AGES: Final = 17


class TargetAttention(nn.Module):
    """Behaviours weighed by their attention to the target: SiLU projections of query and key, their dot product, softmax.

    A learned bias for how many behaviours ago a behaviour was, by powers of two, is added to the scores.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, size)
        self.key = nn.Linear(width, size)
        self.value = nn.Linear(width, width)
        self.age = nn.Parameter(torch.zeros(AGES))

    def forward(self, target: Tensor, behaviours: Tensor, batch: Batch) -> Tensor:
        """(G, K, E) interest of each candidate; zeros where the history is empty.

        Args:
            target: (G, K, E) embeddings of the candidates.
            behaviours: (G, L, E) embeddings of the history.
            batch: the masks.
        """
        scores = self.scores(self.dots(target, behaviours), batch) + self.ages(behaviours)
        present = batch.present[:, None, :]
        weights = torch.softmax(scores.masked_fill(~present, NOTHING), dim=2) * present
        return torch.bmm(weights, nn.functional.silu(self.value(behaviours)))

    def dots(self, target: Tensor, behaviours: Tensor) -> Tensor:
        """(G, K, L) dot products of the projections."""
        query, key = nn.functional.silu(self.query(target)), nn.functional.silu(self.key(behaviours))
        return torch.bmm(query, key.transpose(1, 2))

    def scores(self, dots: Tensor, batch: Batch) -> Tensor:
        """(G, K, L) attention scores before the bias of age; what a variant changes."""
        return dots

    def ages(self, behaviours: Tensor) -> Tensor:
        """(1, 1, L) bias by position, the newest behaviour last."""
        ago = torch.arange(behaviours.shape[1], 0, -1, device=behaviours.device)
        return self.age[torch.log2(ago.float()).long().clamp(max=AGES - 1)][None, None, :]
