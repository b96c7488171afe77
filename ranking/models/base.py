"""What every ranking model is made of: a backbone over ids, and sides that bring content to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ranking.batch import Batch


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes that come from the data.

    Args:
        items: rows of the item embedding, row 0 included.
        scalars: F.
        tiers: N.
        labels: A.
    """

    items: int
    scalars: int
    tiers: int = 0
    labels: int = 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that are chosen.

    Args:
        width: of an id embedding.
        attention: width of the attention's projections.
        hidden: widths of the MLP.
    """

    width: int = 32
    attention: int = 32
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class SideOutput:
    """What a side gives the backbone, each (G, K, some width).

    Attributes:
        entry: joins the input of the MLP.
        hidden: one for each hidden layer of the MLP, or none: joins the input of the layer after it.
        logit: (G, K, 1) or None: joins the last layer's input.
    """

    entry: Tensor
    hidden: tuple[Tensor, ...] = ()
    logit: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SideWidths:
    """Widths of a `SideOutput`."""

    entry: int
    hidden: tuple[int, ...] = ()
    logit: int = 0


class Side(nn.Module):
    """Content brought to a backbone. `widths` must hold for every output."""

    widths: SideWidths

    def forward(self, batch: Batch) -> SideOutput:
        """Values of one batch."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a model takes from the training rows before its first step.

    Attributes:
        sample: groups drawn from the training rows, some thousand candidates.
        seen: (items,) bool, items among the training impressions or in their histories; row 0 is false.
    """

    sample: Batch
    seen: Tensor

    @property
    def scalars(self) -> Tensor:
        """(rows, F) of the sample's candidates."""
        return self.sample.scalars[self.sample.valid]

    @property
    def counts(self) -> Tensor:
        """(rows, N + 1) of the sample's candidates."""
        return self.sample.counts[self.sample.valid]


@runtime_checkable
class LearnsStatistics(Protocol):
    """A module at any depth of a ranker that keeps statistics of the training rows."""

    def learn_from(self, statistics: Statistics) -> None:
        """Take them."""


class Ranker(nn.Module):
    """A model of one label, or of several."""

    def learn(self, statistics: Statistics) -> None:
        """Hand the statistics of the training rows to every module that keeps some; called once, before training."""
        for module in self.modules():
            if isinstance(module, LearnsStatistics):
                module.learn_from(statistics)

    def forward(self, batch: Batch) -> Tensor:
        """(G, K) float32 logits of `Batch.label`; what stands at padding means nothing."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Mean binary cross-entropy over the candidates that are there."""
        losses = nn.functional.binary_cross_entropy_with_logits(self(batch), batch.label, reduction="none")
        return (losses * batch.valid).sum() / batch.valid.sum().clamp(min=1)


class Standardise(nn.Module):
    """``(x - mean) / spread`` per column; the statistics are buffers, so they travel with the model and its export."""

    mean: Tensor
    spread: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("spread", torch.ones(columns))

    def learn(self, rows: Tensor) -> None:
        """Take the statistics of (rows, columns) float32 training rows; a column that does not vary keeps spread 1."""
        if not len(rows):
            return
        values = rows.double()
        spread = values.std(dim=0, correction=0)
        self.mean.copy_(values.mean(dim=0))
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, rows: Tensor) -> Tensor:
        """Same shape."""
        return (rows - self.mean) / self.spread


class VectorTable(nn.Module):
    """Frozen unit vectors of one space: (V + 1, D) float32, row 0 is zero (no vector). Not trained, not saved with the model."""

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def forward(self, at: Tensor) -> Tensor:
        """(..., D) of (...) int64 row numbers."""
        return nn.functional.embedding(at, self.rows)


def similarities(table: VectorTable, batch: Batch) -> tuple[Tensor, Tensor]:
    """(G, K, L) float32 cosines of candidates and behaviours, and bool where both have a vector and differ as items.

    Elsewhere the cosine is 0. The candidate itself in the history is left out, as in SimTier's ``drop_same_id``.
    """
    cosines = torch.bmm(table(batch.vector), table(batch.history_vector).transpose(1, 2))
    there = (batch.vector > 0)[:, :, None] & ((batch.history_vector > 0) & batch.present)[:, None, :]
    there = there & (batch.item[:, :, None] != batch.history[:, None, :])
    return cosines * there, there


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model is built from.

    Attributes:
        table: vectors of the space; None for models over ids alone.
    """

    shapes: Shapes
    sizes: Sizes
    table: VectorTable | None = None
    options: dict[str, object] = field(default_factory=dict)
