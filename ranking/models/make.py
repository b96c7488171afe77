"""MAKE (arXiv 2407.19467): content learnt apart, for many epochs, and then brought to a ranker over ids.

`MultimodalDin` ranks by frozen vectors alone: it has no embedding that one epoch could overfit. Once trained, `Make` brings its
attention's output, its hidden layers and its logit to the layers of an id model, and the two are trained on together.

G groups, K candidates, W width of the projection (`ranking.batch`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moontide.errors import Misconfigured
from ranking.batch import Batch
from ranking.models.attention import TargetAttention
from ranking.models.base import Parts, Ranker, Side, SideOutput, SideWidths, Standardise, Statistics
from ranking.models.din import SidedMlp
from ranking.models.projection import Projection, table_of, with_vectors


@dataclass(frozen=True, slots=True)
class Internals:
    """What a `MultimodalDin` computes on its way.

    Attributes:
        entry: (G, K, 3 W) v_MAKE: projected target, interest, their product.
        hidden: (G, K, width) of each hidden layer.
        logit: (G, K, 1).
    """

    entry: Tensor
    hidden: tuple[Tensor, ...]
    logit: Tensor


class MultimodalDin(Ranker):
    """DIN whose item embeddings are learned projections of frozen vectors, with the scalars.

    Behaviours without a vector are left out.

    Args:
        parts: with a table; the projection is as wide as an id embedding.

    Raises:
        Misconfigured: no table.
    """

    def __init__(self, parts: Parts) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__()
        sizes = parts.sizes
        self.sizes = sizes
        self.project = Projection(table_of(parts), sizes.width)
        self.attention = TargetAttention(sizes.width, sizes.attention)
        self.scalars = Standardise(parts.shapes.scalars)
        self.mlp = SidedMlp(3 * sizes.width + parts.shapes.scalars, sizes.hidden, sizes.dropout, ())

    def learn_from(self, statistics: Statistics) -> None:
        """Standardise the scalars."""
        self.scalars.learn(statistics.sample.scalars[statistics.sample.valid])

    def forward(self, batch: Batch) -> Tensor:
        """(G, K) logits."""
        return self.internals(batch).logit.squeeze(2)

    def internals(self, batch: Batch) -> Internals:
        """Of one batch."""
        target, behaviours = self.project(batch)
        interest = self.attention(target, behaviours, with_vectors(batch))
        entry = torch.cat([target, interest, target * interest], dim=2)
        value, hidden = torch.cat([entry, self.scalars(batch.scalars)], dim=2), list[Tensor]()
        for layer in self.mlp.layers:
            value = layer(value)
            hidden.append(value)
        return Internals(entry, tuple(hidden), self.mlp.last(value))


class Make(Side):
    """What a trained `MultimodalDin` brings: v_MAKE to the input, its hidden layers to the hidden layers, its logit to the last.

    Args:
        model: trained; it is part of the side from now on and is trained with it.
        layers: hidden layers of the model it is brought to.
        frozen: the model is trained no more, and has no dropout.

    Raises:
        Misconfigured: the two models differ in their number of hidden layers.
    """

    def __init__(self, model: MultimodalDin, layers: int, *, frozen: bool = False) -> None:
        super().__init__()
        sizes = model.sizes
        if layers != len(sizes.hidden):
            raise Misconfigured(f"Make: expected the {layers} hidden layers of the model it joins, got {len(sizes.hidden)}")
        self.model = model
        self.frozen = frozen
        if frozen:
            model.requires_grad_(requires_grad=False)
        self.widths = SideWidths(entry=3 * sizes.width, hidden=sizes.hidden, logit=1)

    def train(self, mode: bool = True) -> Make:  # noqa: FBT001, FBT002
        """As every module; a frozen model stays as it scores."""
        super().train(mode)
        self.model.train(mode and not self.frozen)
        return self

    def forward(self, batch: Batch) -> SideOutput:
        """Values of one batch."""
        found = self.model.internals(batch)
        return SideOutput(found.entry, found.hidden, found.logit)
