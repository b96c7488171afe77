"""FAT: a field-aware transformer as a second backbone (after arXiv 2511.12081), small.

Every feature is a field and one token: the candidate's id, the user's interest, each scalar, each side. What a token is projected
with depends on its field, and how much one field attends to another on the pair; both come from a hypernetwork that mixes a few
shared bases, so that parameters grow with the bases and not with the fields. How the published model pools its tokens and where
it normalises is not known here: those are this module's own.

G groups, K candidates, R = G * K rows, F fields, W token width, H heads (`ranking.batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moontide.errors import Misconfigured
from ranking.batch import Batch
from ranking.models.attention import TargetAttention
from ranking.models.base import Parts, Ranker, Side, SideOutput, Standardise, Statistics
from ranking.models.din import IdEmbedding, SidedMlp


@dataclass(frozen=True, slots=True)
class FatSizes:
    """Sizes of the transformer; token width, dropout and the MLP above it are the model's `Sizes`.

    Args:
        blocks: layers of attention.
        heads: H; divides the token width.
        bases: shared matrices that each field's own are mixed of.
        field: width of a field's embedding.
    """

    blocks: int = 1
    heads: int = 2
    bases: int = 4
    field: int = 8


class FieldLinear(nn.Module):
    """A linear layer of each field's own, mixed of shared bases: ``W_f = sum_b mix_b(e_f) * B_b``, biases likewise."""

    def __init__(self, sizes: FatSizes, entries: int, outs: int) -> None:
        super().__init__()
        self.mix = nn.Linear(sizes.field, sizes.bases)
        bound = (entries * sizes.bases) ** -0.5
        self.weights = nn.Parameter(torch.empty(sizes.bases, entries + 1, outs).uniform_(-bound, bound))

    def forward(self, tokens: Tensor, fields: Tensor) -> Tensor:
        """(F, R, outs) of (F, R, entries) tokens and (F, field) embeddings of the fields."""
        # The first base counts 1 for every field: a shared layer that the others modulate.
        mixed = torch.cat([torch.ones_like(fields[:, :1]), self.mix(fields)[:, 1:]], dim=1)
        weights = torch.einsum("fb,bio->fio", mixed, self.weights)
        return torch.baddbmm(weights[:, -1:], tokens, weights[:, :-1])


class FieldBlock(nn.Module):
    """Attention among fields and an MLP, each after normalisation and added to its input."""

    def __init__(self, sizes: FatSizes, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.project = FieldLinear(sizes, width, 3 * width)
        self.out = FieldLinear(sizes, width, width)
        self.wide = FieldLinear(sizes, width, 2 * width)
        self.narrow = FieldLinear(sizes, 2 * width, width)
        self.left, self.right = (nn.Linear(sizes.field, sizes.heads * sizes.bases, bias=False) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, fields: Tensor) -> Tensor:
        """(F, R, W) of the same."""
        mixed = tokens + self.dropout(self.out(self._attend(self.norms[0](tokens), fields), fields))
        wide = nn.functional.gelu(self.wide(self.norms[1](mixed), fields))
        found: Tensor = mixed + self.dropout(self.narrow(wide, fields))
        return found

    def _attend(self, tokens: Tensor, fields: Tensor) -> Tensor:
        # (3, R, H, F, W / H)
        split = self.project(tokens, fields).unflatten(2, (3, self.heads, -1)).permute(2, 1, 3, 0, 4)
        query, key, value = split[0], split[1], split[2]
        scores = torch.matmul(query, key.transpose(2, 3)) * self.modulation(fields) * query.shape[-1] ** -0.5
        mixed = torch.matmul(torch.softmax(scores, dim=3), value)
        return mixed.permute(2, 0, 1, 3).flatten(2)

    def modulation(self, fields: Tensor) -> Tensor:
        """(H, F, F): what the scores of each pair of fields are multiplied by; 1 where the pair is neutral, not symmetric."""
        left, right = (side(fields).unflatten(1, (self.heads, -1)).transpose(0, 1) for side in (self.left, self.right))
        return 1 + torch.bmm(left, right.transpose(1, 2))


class Fat(Ranker):
    """The backbone: tokens, blocks, and an MLP over all tokens end to end.

    Args:
        parts: sizes; the token width is that of an id embedding.
        sides: content; all that a side brings makes one token.
        attention: another attention over the behaviours than `TargetAttention`, e.g. SA-TA.
        fat: sizes of the transformer.

    Raises:
        Misconfigured: heads that do not divide the token width.
    """

    def __init__(
        self,
        parts: Parts,
        sides: Sequence[Side] = (),
        attention: TargetAttention | None = None,
        fat: FatSizes | None = None,
    ) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__()
        sizes, fat = parts.sizes, fat or FatSizes()
        if sizes.width % fat.heads:
            raise Misconfigured(f"Fat: expected heads that divide the width {sizes.width}, got {fat.heads}")
        self.items = IdEmbedding(parts.shapes.items, sizes.width)
        self.attention = attention or TargetAttention(sizes.width, sizes.attention)
        self.scalars = Standardise(parts.shapes.scalars)
        self.scalar_tokens = nn.Parameter(torch.randn(2, parts.shapes.scalars, sizes.width) * 0.3)
        self.sides = nn.ModuleList(sides)
        self.side_tokens = nn.ModuleList(nn.Linear(_width(side), sizes.width) for side in sides)
        fields = 2 + parts.shapes.scalars + len(sides)
        self.fields = nn.Parameter(torch.randn(fields, fat.field) * fat.field**-0.5)
        self.blocks = nn.ModuleList(FieldBlock(fat, sizes.width, sizes.dropout) for _ in range(fat.blocks))
        self.norm = nn.LayerNorm(sizes.width)
        self.mlp = SidedMlp(fields * sizes.width, sizes.hidden, sizes.dropout, ())

    def learn_from(self, statistics: Statistics) -> None:
        """Standardise the scalars."""
        self.scalars.learn(statistics.sample.scalars[statistics.sample.valid])

    def forward(self, batch: Batch) -> Tensor:
        """(G, K) logits."""
        tokens = self.tokens(batch)
        for block in self.blocks:
            tokens = block(tokens, self.fields)
        groups, candidates = batch.item.shape
        entry = self.norm(tokens).transpose(0, 1).reshape(groups, candidates, self.fields.shape[0] * tokens.shape[2])
        logits: Tensor = self.mlp(entry, batch)
        return logits

    def tokens(self, batch: Batch) -> Tensor:
        """(F, R, W): candidate, interest, scalars, sides."""
        target = self.items(batch.item)
        interest = self.attention(target, self.items(batch.history), batch)
        slope, level = self.scalar_tokens[0], self.scalar_tokens[1]
        scalars = self.scalars(batch.scalars)[..., None] * slope + level
        brought = [make(_joined(side(batch))) for side, make in zip(self.sides, self.side_tokens, strict=True)]
        tokens = torch.cat([torch.stack([target, interest, *brought], dim=2), scalars], dim=2)
        return tokens.flatten(0, 1).transpose(0, 1)


def _width(side: Side) -> int:
    return side.widths.entry + sum(side.widths.hidden) + side.widths.logit


def _joined(found: SideOutput) -> Tensor:
    return torch.cat([found.entry, *found.hidden, *([] if found.logit is None else [found.logit])], dim=2)
