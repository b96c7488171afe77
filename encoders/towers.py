"""The MOON towers in torch: image, text, and the fusion that puts any modality mix into one space.

B rows, L features a text, V rows of the text table, D the space's dim, S the side of a square image, W image features.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.backbones.base import load_backbone
from encoders.config import ModelConfig
from encoders.descriptors import ColourHistogram, Texture
from encoders.experts import Fusion
from encoders.folding import fold, round_weights
from encoders.tokenizer import Kind
from encoders.vectors import unit

__all__ = ["Fusion", "ImageTower", "Moon", "TextTower", "unit"]

FIELDS: Final = 3  # title, attributes, description
_FIELD_OF_KIND: Final = {
    Kind.TITLE_WORD: 0, Kind.TITLE_GRAM: 0, Kind.TITLE_BIGRAM: 0, Kind.ATTRIBUTE_WORD: 1, Kind.ATTRIBUTE_GRAM: 1,
    Kind.ATTRIBUTE_BIGRAM: 1, Kind.DESCRIPTION_WORD: 2, Kind.DESCRIPTION_GRAM: 2, Kind.DESCRIPTION_BIGRAM: 2,
}  # fmt: skip
_LEARNING: Final = frozenset({Kind.TITLE_WORD, Kind.ATTRIBUTE_WORD, Kind.DESCRIPTION_WORD})
_FIELD_START: Final = (1.0, 0.6, 0.4)
#: Shares of colour and texture beside what the backbone saw, at the start.
_COLOUR_START: Final = 0.5
_TEXTURE_START: Final = 0.3
_ROOT_FLOOR: Final = 1e-6


class ImageTower(nn.Module):
    """A backbone's view of a picture beside its colour and texture, each through one linear map."""

    def __init__(self, dim: int, backbone: nn.Module, *, train_backbone: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.seen = int(backbone.width)  # type: ignore[arg-type]
        self.colour, self.texture = ColourHistogram(), Texture()
        if not train_backbone:
            # What it is trained beside is what the artifact will hold.
            fold(backbone.eval())
            round_weights(backbone)
            backbone.requires_grad_(False)
        self.width = self.seen + self.colour.width + self.texture.width
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("spread", torch.ones(self.width))
        self.deep_head = nn.Linear(self.seen, dim, bias=False)
        self.colour_head = nn.Linear(self.colour.width, dim, bias=False)
        self.texture_head = nn.Linear(self.texture.width, dim, bias=False)
        self.log_share = nn.Parameter(torch.log(torch.tensor([_COLOUR_START, _TEXTURE_START])))
        for head in (self.deep_head, self.colour_head, self.texture_head):
            nn.init.normal_(head.weight, std=1.0 / math.sqrt(dim))

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float in 0..1 -> (B, W): what is kept of a picture when the backbone is frozen."""
        seen = self.backbone(x)
        # A root with the sign kept: a few loud channels would decide every cosine.
        return torch.cat([seen / torch.sqrt(seen.abs() + _ROOT_FLOOR), self.colour(x), self.texture(x)], dim=1)

    def centre(self, rows: Tensor) -> None:
        """Take mean and spread of (N, W) features of training pictures: cosines of uncentred features are all alike."""
        if len(rows) > 1:
            self.get_buffer("mean").copy_(rows.mean(dim=0))
            deviation = rows.std(dim=0)
            # One scale for each part: whitening every feature by itself would lift its noise.
            parts = [self.seen, self.colour.width, self.texture.width]
            scales = [part.square().mean().sqrt().clamp(min=1e-6).expand(len(part)) for part in deviation.split(parts)]
            self.get_buffer("spread").copy_(torch.cat(scales))

    def project(self, rows: Tensor) -> Tensor:
        """(B, W) features -> (B, D) unit rows."""
        centred = (rows - self.get_buffer("mean")) / self.get_buffer("spread")
        deep, colour, texture = centred.split([self.seen, self.colour.width, self.texture.width], dim=1)
        shares = torch.exp(self.log_share)
        surface = shares[0] * unit(self.colour_head(colour)) + shares[1] * unit(self.texture_head(texture))
        return unit(unit(self.deep_head(deep)) + surface)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float in 0..1 -> (B, D) unit rows."""
        return self.project(self.features(x))


class TextTower(nn.Module):
    """A bag of hashed words, word pairs and character n-grams; what each says is decided by the tokenizer's weights.

    Starts as a random projection of weighted terms: good before any training, because retrieval by title is first of
    all a matter of rare words.
    """

    def __init__(self, dim: int, buckets: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(buckets, dim) / math.sqrt(dim))
        self.log_kind = nn.Parameter(torch.zeros(len(Kind)))
        self.field = nn.Parameter(torch.tensor(_FIELD_START))
        owners = torch.zeros(len(Kind), FIELDS)
        for kind, field in _FIELD_OF_KIND.items():
            owners[kind, field] = 1.0
        self.register_buffer("owners", owners)
        self.register_buffer("learns", torch.tensor([kind in _LEARNING for kind in Kind]))

    def forward(self, ids: Tensor, kinds: Tensor, weights: Tensor) -> Tensor:
        """(B, L) buckets and kinds, int64, and (B, L) weights -> (B, D) unit rows; zero where every feature is padding."""
        rows = functional.embedding(ids, self.table)
        if self.training_rows:
            # Only words learn. There are more n-grams and word pairs than rows: if they learnt too, every row would move, and
            # with it words that training never met.
            rows = torch.where(self.get_buffer("learns")[kinds][:, :, None], rows, rows.detach())
        return self.pool(rows, weights[:, :, None], kinds)

    @property
    def training_rows(self) -> bool:
        """Whether a gradient of the table will be asked for."""
        return self.table.requires_grad and torch.is_grad_enabled()

    def pool(self, rows: Tensor, weights: Tensor, kinds: Tensor) -> Tensor:
        """(B, L, D) table rows, (B, L, 1) weights, (B, L) kinds -> (B, D)."""
        by_kind = torch.exp(self.log_kind)[:, None] * self.get_buffer("owners")
        share = functional.embedding(kinds, by_kind) * weights
        bags = unit(torch.matmul(share.transpose(1, 2), rows))
        return unit((bags * self.field[None, :, None]).sum(dim=1))


class Moon(nn.Module):
    """The three parts under one set of parameters."""

    def __init__(self, config: ModelConfig, *, experts: bool = True, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.image = ImageTower(
            config.dim, load_backbone(config.backbone, pretrained=pretrained), train_backbone=config.train_backbone
        )
        self.text = TextTower(config.dim, config.buckets)
        self.fusion = Fusion(config.dim, config.experts if experts else 0)

    def fuse(self, image: Tensor | None, text: Tensor | None) -> Tensor:
        """(B, D) of rows that all have the same modalities; at least one is given."""
        return self.routed(image, text)[0]

    def routed(self, image: Tensor | None, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `fuse`, with the experts' shares (B, E)."""
        known = image if image is not None else text
        if known is None:
            raise ValueError("fuse: expected an image or a text, got neither")
        nothing = torch.zeros_like(known)
        flags = torch.tensor([float(image is not None), float(text is not None)], device=known.device).expand(len(known), 2)
        return self.fusion.routed(nothing if image is None else image, nothing if text is None else text, flags)
