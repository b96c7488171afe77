"""DIN: target attention over a user's item ids (arXiv 1706.06978), an MLP over it and the scalars, and whatever sides bring.

G groups, K candidates, L behaviours, E embedding width (`ranking.batch`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.batch import Batch
from ranking.models.attention import TargetAttention
from ranking.models.base import Parts, Ranker, Side, Standardise, Statistics


class IdEmbedding(nn.Module):
    """(..., E) rows of item ids. Row 0 is zero and stands for padding and for every item that was not seen in training."""

    row: Tensor

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(items, width, padding_idx=0)
        nn.init.normal_(self.rows.weight, std=0.05)
        with torch.no_grad():
            self.rows.weight[0] = 0
        self.register_buffer("row", torch.arange(items))

    def learn_from(self, statistics: Statistics) -> None:
        """Items that training has not seen share row 0."""
        seen = statistics.seen
        self.row.copy_(torch.where(seen, torch.arange(len(seen)), 0))

    def forward(self, item: Tensor) -> Tensor:
        """Embeddings of (...) int64 items."""
        rows: Tensor = self.rows(self.row[item])
        return rows


class SidedMlp(nn.Module):
    """An MLP whose input, hidden layers and last layer also read what sides bring: each joins the layer it belongs to."""

    def __init__(self, entries: int, hidden: tuple[int, ...], dropout: float, sides: Sequence[Side]) -> None:
        super().__init__()
        entries += sum(side.widths.entry for side in sides)
        self.layers = nn.ModuleList()
        for at, width in enumerate(hidden):
            self.layers.append(nn.Sequential(nn.Linear(entries, width), nn.PReLU(), nn.Dropout(dropout)))
            entries = width + sum(side.widths.hidden[at] for side in sides if side.widths.hidden)
        self.last = nn.Linear(entries + sum(side.widths.logit for side in sides), 1)
        self.sides = nn.ModuleList(sides)

    def forward(self, entry: Tensor, batch: Batch) -> Tensor:
        """(G, K) logits of (G, K, entries)."""
        brought = [side(batch) for side in self.sides]
        value = torch.cat([entry, *(found.entry for found in brought)], dim=2)
        for at, layer in enumerate(self.layers):
            value = torch.cat([layer(value), *(found.hidden[at] for found in brought if found.hidden)], dim=2)
        logits = [found.logit for found in brought if found.logit is not None]
        logit: Tensor = self.last(torch.cat([value, *logits], dim=2))
        return logit.squeeze(2)


class Din(Ranker):
    """The baseline over ids, and with sides every model that adds content to it.

    Args:
        parts: sizes.
        sides: content, in order.
        attention: another attention than `TargetAttention`, e.g. SA-TA.
    """

    def __init__(self, parts: Parts, sides: Sequence[Side] = (), attention: TargetAttention | None = None) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__()
        sizes = parts.sizes
        self.items = IdEmbedding(parts.shapes.items, sizes.width)
        self.attention = attention or TargetAttention(sizes.width, sizes.attention)
        self.scalars = Standardise(parts.shapes.scalars)
        self.mlp = SidedMlp(3 * sizes.width + parts.shapes.scalars, sizes.hidden, sizes.dropout, sides)

    def learn_from(self, statistics: Statistics) -> None:
        """Standardise the scalars."""
        self.scalars.learn(statistics.scalars)

    def forward(self, batch: Batch) -> Tensor:
        """(G, K) logits."""
        target = self.items(batch.item)
        interest = self.attention(target, self.items(batch.history), batch)
        return self.mlp(torch.cat([target, interest, target * interest, self.scalars(batch.scalars)], dim=2), batch)  # type: ignore[no-any-return]
