"""Several labels at once: auxiliary towers whose knowledge goes to the tower of the label that is served (MAL, arXiv 2508.15217).

The labels may be the attributions of one purchase (first click, last click, linear), or other actions. As in the paper, an
aggregator learns all of them (AKA), the Cartesian product of labels too (CAT), and the primary tower (PTP) reads what its layers
found. Layer by layer fusion is that of NATAL in the authors' PyMAL.

G groups, K candidates, A further labels (`ranking.batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from moontide.errors import Misconfigured
from ranking.batch import Batch
from ranking.models.attention import TargetAttention
from ranking.models.base import Parts, Side
from ranking.models.din import Din, SidedMlp

#: Further labels beyond which their Cartesian product has too many classes to learn.
MAX_PRODUCT: Final = 5


@dataclass(frozen=True, slots=True)
class TaskWeights:
    """How much the auxiliary losses count beside the primary one.

    Args:
        labels: of the mean over the further labels.
        product: of the Cartesian product of all labels; 0: no tower for it.
    """

    labels: float = 0.3
    product: float = 0.0


class Level(nn.Module):
    """One hidden layer of all auxiliary towers, and what the primary tower takes from it."""

    def __init__(self, towers: int, entries: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(entries, width), nn.PReLU(), nn.Dropout(dropout)) for _ in range(towers)
        )
        self.fusion = nn.Linear(towers * width, width)

    def forward(self, values: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """(G, K, width) of each tower, and (G, K, width) of them all."""
        found = [layer(value) for layer, value in zip(self.layers, values, strict=True)]
        return found, self.fusion(torch.cat(found, dim=2))


class Towers(SidedMlp):
    """The primary tower and, as deep, one for each further label and maybe one for the product of all labels."""

    def __init__(self, entries: int, parts: Parts, sides: Sequence[Side], *, product: bool) -> None:
        sizes, labels = parts.sizes, parts.shapes.labels
        super().__init__(entries, sizes.hidden, sizes.dropout, sides)
        outs = [1] * labels + ([2 ** (labels + 1)] if product else [])
        widths = [entries + sum(side.widths.entry for side in sides), *sizes.hidden]
        self.levels = nn.ModuleList(
            Level(len(outs), before, width, sizes.dropout) for before, width in zip(widths[:-1], widths[1:], strict=True)
        )
        self.lasts = nn.ModuleList(nn.Linear(widths[-1], out) for out in outs)

    def forward(self, entry: Tensor, batch: Batch) -> Tensor:
        """(G, K, 1 + A + classes of the product) logits, the primary label's first."""
        brought = [side(batch) for side in self.sides]
        value = torch.cat([entry, *(found.entry for found in brought)], dim=2)
        helpers = [value] * len(self.lasts)
        for at, (layer, level) in enumerate(zip(self.layers, self.levels, strict=True)):
            helpers, knowledge = level(helpers)
            joined = layer(value) + knowledge
            value = torch.cat([joined, *(found.hidden[at] for found in brought if found.hidden)], dim=2)
        logits = [found.logit for found in brought if found.logit is not None]
        primary = self.last(torch.cat([value, *logits], dim=2))
        return torch.cat([primary, *(last(helper) for last, helper in zip(self.lasts, helpers, strict=True))], dim=2)


class MultiTask(Din):
    """DIN with towers for further labels over one shared bottom. Its logit is the primary label's.

    Args:
        parts: sizes, with 1 or more labels.
        sides: content: its input joins the shared bottom, its layers and logit the primary tower.
        attention: another attention than `TargetAttention`.
        weights: of the auxiliary losses.

    Raises:
        Misconfigured: no further labels, or too many for their product.
    """

    def __init__(
        self,
        parts: Parts,
        sides: Sequence[Side] = (),
        attention: TargetAttention | None = None,
        weights: TaskWeights | None = None,
    ) -> None:
        """Weights come from torch's global generator: seed it first."""
        weights = weights or TaskWeights()
        labels = parts.shapes.labels
        if not labels:
            raise Misconfigured("MultiTask: expected 1 or more further labels, got none; name them in data.labels")
        if weights.product and labels > MAX_PRODUCT:
            raise Misconfigured(f"MultiTask: expected at most {MAX_PRODUCT} labels for their product, got {labels}")
        super().__init__(parts, (), attention)
        entries = 3 * parts.sizes.width + parts.shapes.scalars
        self.mlp: SidedMlp = Towers(entries, parts, sides, product=bool(weights.product))
        self.weights = weights

    def forward(self, batch: Batch) -> Tensor:
        """(G, K) logits of `Batch.label`."""
        return self.logits(batch)[:, :, 0]

    def logits(self, batch: Batch) -> Tensor:
        """(G, K, 1 + A + classes of the product): the primary label, the further ones, the product's classes."""
        return super().forward(batch)

    def loss(self, batch: Batch) -> Tensor:
        """The primary label's mean cross-entropy over the candidates that are there, and the weighed auxiliary ones.

        A further label that is NaN is not known: the mean over the further labels is over those that are, the product's over the
        candidates whose labels all are, and either is 0 where the batch has none.
        """
        known = ~torch.isnan(batch.labels)
        logits, labels = self.logits(batch), torch.cat([batch.label[:, :, None], batch.labels.where(known, 0.0)], dim=2)
        tasks = labels.shape[2]
        each = nn.functional.binary_cross_entropy_with_logits(logits[:, :, :tasks], labels, reduction="none")
        total = each[:, :, 0] + self.weights.labels * (each[:, :, 1:] * _shares(known, batch.valid)).mean(dim=2)
        if self.weights.product:
            found = torch.log_softmax(logits[:, :, tasks:], dim=2)
            share = _shares(known.all(dim=2, keepdim=True), batch.valid)[:, :, 0]
            total = total - self.weights.product * share * (product_of(labels) * found).sum(dim=2)
        return (total * batch.valid).sum() / batch.valid.sum().clamp(min=1)


def _shares(known: Tensor, valid: Tensor) -> Tensor:
    """(G, K, T) float32 weights that make a mean over the candidates one over what of theirs is `known`: 1 where all is."""
    counted = known & valid[:, :, None]
    return counted * (valid.sum() * known.shape[2] / counted.sum().clamp(min=1))


def product_of(labels: Tensor) -> Tensor:
    """(..., 2^T) probability of each combination of (..., T) labels, the first label the highest bit.

    One class of labels that are 0 or 1; labels in between are taken as independent.
    """
    found = torch.ones_like(labels[..., :1])
    for label in labels.unbind(dim=-1):
        both = torch.stack([1 - label, label], dim=-1)
        found = (found[..., :, None] * both[..., None, :]).flatten(-2)
    return found
