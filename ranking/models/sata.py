"""SA-TA: target attention that also reads how similar the contents are (MUSE, arXiv 2512.07216, section 4; released code)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking.batch import Batch
from ranking.models.attention import TargetAttention
from ranking.models.base import VectorTable

#: Where the temperature starts and the least it may fall to, so that a step across 0 cannot turn the sign of all scores.
TEMPERATURE, COLDEST = 0.1, 0.01


class SaTa(TargetAttention):
    """``b1 * dot + b2 * bias + b3 * dot * bias`` with ``bias = cosine / temperature``; the cosine is 0 without a vector.

    The candidate itself among the behaviours keeps its cosine of 1, as released.

    Args:
        width: E.
        size: width of the attention's projections.
        table: the vectors.
    """

    def __init__(self, width: int, size: int, table: VectorTable) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__(width, size)
        self.table = table
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.mix = nn.Parameter(torch.ones(3))

    def scores(self, dots: Tensor, batch: Batch) -> Tensor:
        """(G, K, L)."""
        cosines = torch.bmm(self.table(batch.vector), self.table(batch.history_vector).transpose(1, 2))
        bias = cosines / self.temperature.clamp(min=COLDEST)
        return self.mix[0] * dots + self.mix[1] * bias + self.mix[2] * dots * bias
