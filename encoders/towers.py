"""The MOON towers in torch: image, text, and the fusion that puts any modality mix into one space.

B rows, L features a text, V buckets, D the space's dim, S the side of a square image.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.tokenizer import Kind

FIELDS: Final = 3  # title, attributes, description
_FIELD_OF_KIND: Final = {
    Kind.TITLE_WORD: 0, Kind.TITLE_GRAM: 0, Kind.ATTRIBUTE_WORD: 1, Kind.ATTRIBUTE_GRAM: 1, Kind.DESCRIPTION_WORD: 2,
}  # fmt: skip
# A gram is a weaker witness than a word, and there are five times as many of them.
_KIND_START: Final = {Kind.TITLE_WORD: 1.0, Kind.TITLE_GRAM: 0.4, Kind.ATTRIBUTE_WORD: 1.0,
                      Kind.ATTRIBUTE_GRAM: 0.4, Kind.DESCRIPTION_WORD: 1.0}  # fmt: skip
_FIELD_START: Final = (1.0, 0.6, 0.4)
_COLOUR_LEVELS: Final = 4
_COLOUR_GRID: Final = 32


def unit(x: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero."""
    # A floor, not an added epsilon: exporters take "+ 1e-12" for a no-op and drop it.
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True).clamp(min=1e-12))


class Block(nn.Module):
    """A residual block of two 3x3 convolutions; `stride` 2 halves the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride)
        self.second = _conv(outputs, outputs, 1)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else _conv(inputs, outputs, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, outputs, S / stride, S / stride)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.skip(x))


class ColourHistogram(nn.Module):
    """Soft RGB histograms of the whole picture and of its middle, where the product is; 2 x 64 bins.

    A network trained on few kinds of goods forgets colour; the histogram carries it to kinds never seen.
    """

    width: Final = 2 * _COLOUR_LEVELS**3

    def __init__(self) -> None:
        super().__init__()
        levels = (torch.arange(_COLOUR_LEVELS) + 0.5) / _COLOUR_LEVELS
        centres = torch.cartesian_prod(levels, levels, levels)
        sharpness = 2.0 / (0.5 / _COLOUR_LEVELS) ** 2
        # Of -|x - c|^2 the softmax only sees 2 c.x - |c|^2, which is a 1x1 convolution.
        self.register_buffer("weight", sharpness * 2.0 * centres[:, :, None, None])
        self.register_buffer("bias", -sharpness * (centres**2).sum(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in 0..1 -> (B, width), rows of length sqrt(2)."""
        small = functional.avg_pool2d(x, x.shape[-1] // _COLOUR_GRID)
        shares = torch.softmax(functional.conv2d(small, self.get_buffer("weight"), self.get_buffer("bias")), dim=1)
        edge = _COLOUR_GRID // 4
        whole = shares.mean(dim=(2, 3))
        middle = shares[:, :, edge:-edge, edge:-edge].mean(dim=(2, 3))
        return torch.sqrt(torch.cat([whole, middle], dim=1).clamp(min=1e-6))


class ImageTower(nn.Module):
    """A small residual network beside a colour histogram. S may be any multiple of 32."""

    def __init__(self, dim: int, widths: tuple[int, ...] = (32, 64, 128, 224), depth: int = 1) -> None:
        super().__init__()
        self.stem = _conv(3, widths[0], 2)
        blocks: list[nn.Module] = []
        for at, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            blocks.append(Block(inputs, outputs, 2))
            blocks.extend(Block(outputs, outputs, 1) for _ in range(depth if at else 0))
        self.blocks = nn.Sequential(*blocks)
        self.colour = ColourHistogram()
        self.deep_head = nn.Linear(widths[-1], dim)
        self.colour_head = nn.Linear(self.colour.width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float in 0..1 -> (B, D) unit rows."""
        # A fixed centring would do for contrast, but lamps differ: each picture is centred by itself.
        mean = x.mean(dim=(2, 3), keepdim=True)
        centred = ((x - 0.5 - 0.5 * (mean - 0.5)) * 4.0).contiguous(memory_format=torch.channels_last)
        if self.training:
            # Half the time of float32 on processors with bfloat16; the histogram's large logits could not bear it.
            with torch.autocast("cpu", torch.bfloat16):
                deep = self.blocks(torch.relu(self.stem(centred)))
        else:
            deep = self.blocks(torch.relu(self.stem(centred)))
        pooled = deep.float().mean(dim=(2, 3))
        return unit(unit(self.deep_head(pooled)) + self.colour_head(self.colour(x)))


class TextTower(nn.Module):
    """A bag of hashed words and character n-grams with learned term, kind and field weights.

    Starts as a random projection of TF-IDF once `set_term_weights` was called: good before any training, because
    retrieval by title is first of all a matter of rare words.
    """

    def __init__(self, dim: int, buckets: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(buckets, dim) / math.sqrt(dim))
        self.log_term = nn.Parameter(torch.zeros(buckets))
        self.log_kind = nn.Parameter(torch.tensor([math.log(_KIND_START.get(kind, 1.0)) for kind in Kind]))
        self.field = nn.Parameter(torch.tensor(_FIELD_START))
        owners = torch.zeros(len(Kind), FIELDS)
        for kind, field in _FIELD_OF_KIND.items():
            owners[kind, field] = 1.0
        self.register_buffer("owners", owners)

    def set_term_weights(self, weights: Tensor) -> None:
        """Start from (V,) positive weights, e.g. inverse document frequencies."""
        with torch.no_grad():
            self.log_term.copy_(weights.log())

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """(B, L) buckets and (B, L) kinds, both int64 -> (B, D) unit rows; zero where every feature is padding."""
        weights = torch.exp(functional.embedding(ids, self.log_term[:, None]))
        return self.pool(functional.embedding(ids, self.table), weights, kinds)

    def pool(self, rows: Tensor, weights: Tensor, kinds: Tensor) -> Tensor:
        """(B, L, D) table rows, (B, L, 1) term weights, (B, L) kinds -> (B, D)."""
        by_kind = torch.exp(self.log_kind)[:, None] * self.get_buffer("owners")
        share = functional.embedding(kinds, by_kind) * weights
        bags = unit(torch.matmul(share.transpose(1, 2), rows))
        return unit((bags * self.field[None, :, None]).sum(dim=1))


class Fusion(nn.Module):
    """Gated sum of the towers plus a correction that sees which modalities are there; starts as the plain mean."""

    def __init__(self, dim: int, hidden: int = 192) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim + 2, 2)
        self.wide = nn.Linear(2 * dim + 2, hidden)
        self.narrow = nn.Linear(hidden, dim)
        for layer in (self.gate, self.narrow):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, text: Tensor, present: Tensor) -> Tensor:
        """(B, D) tower outputs, zero where absent, and (B, 2) flags -> (B, D) unit rows."""
        both = torch.cat([image, text, present], dim=1)
        gates = torch.exp(torch.tanh(self.gate(both)))
        mixed = gates[:, :1] * image + gates[:, 1:] * text
        return unit(unit(mixed) + self.narrow(torch.relu(self.wide(both))))


class Moon(nn.Module):
    """The three parts under one set of parameters."""

    def __init__(self, dim: int, buckets: int) -> None:
        super().__init__()
        self.dim = dim
        self.image = ImageTower(dim)
        self.text = TextTower(dim, buckets)
        self.fusion = Fusion(dim)

    def fuse(self, image: Tensor | None, text: Tensor | None) -> Tensor:
        """(B, D) of rows that all have the same modalities; at least one is given."""
        known = image if image is not None else text
        if known is None:
            raise ValueError("fuse: expected an image or a text, got neither")
        nothing = torch.zeros_like(known)
        flags = torch.tensor([float(image is not None), float(text is not None)]).expand(len(known), 2)
        return self.fusion(nothing if image is None else image, nothing if text is None else text, flags)


def _conv(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
