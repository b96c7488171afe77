"""Colour and texture of a picture, computed and not learnt, so that kinds of goods never seen in training keep them.

B pictures of S x S.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS: Final = 4
_GRID: Final = 32
_DIRECTIONS: Final = 8
_CELLS: Final = 4
_TEXTURE_GRID: Final = 64


class ColourHistogram(nn.Module):
    """Soft RGB histograms of the whole picture and of its middle, where the product is; 2 x 64 bins."""

    width: Final = 2 * _LEVELS**3

    def __init__(self) -> None:
        super().__init__()
        levels = (torch.arange(_LEVELS) + 0.5) / _LEVELS
        red, green, blue = torch.meshgrid(levels, levels, levels, indexing="ij")
        self.register_buffer("centres", torch.stack([red, green, blue], dim=-1).reshape(-1, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float in 0..1 -> (B, 128), square roots of shares, so that their cosine is Bhattacharyya's."""
        small = functional.adaptive_avg_pool2d(x, _GRID)
        centres = self.get_buffer("centres")
        pixels = small.flatten(2).transpose(1, 2)
        apart = (pixels * pixels).sum(-1, keepdim=True) - 2.0 * pixels @ centres.T + (centres * centres).sum(-1)
        share = torch.softmax(-apart * 40.0, dim=-1).reshape(-1, _GRID, _GRID, _LEVELS**3)
        low, high = _GRID // 4, _GRID - _GRID // 4
        whole, middle = share.mean(dim=(1, 2)), share[:, low:high, low:high].mean(dim=(1, 2))
        return torch.sqrt(torch.cat([whole, middle], dim=1).clamp(min=1e-8))


class Texture(nn.Module):
    """Strength of edges in 8 directions over 4 x 4 cells: a small histogram of oriented gradients (Dalal and Triggs)."""

    width: Final = _CELLS * _CELLS * _DIRECTIONS

    def __init__(self) -> None:
        super().__init__()
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4.0
        angles = torch.arange(_DIRECTIONS) * (math.pi / _DIRECTIONS)
        filters = torch.cos(angles)[:, None, None] * sobel + torch.sin(angles)[:, None, None] * sobel.T
        self.register_buffer("filters", filters[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float in 0..1 -> (B, 128), square roots of shares of a cell; light and contrast of the picture cancel."""
        grey = functional.adaptive_avg_pool2d(x.mean(dim=1, keepdim=True), _TEXTURE_GRID)
        edges = functional.conv2d(grey, self.get_buffer("filters"))
        # The fourth power picks the direction an edge has; cosines of neighbouring directions overlap.
        strong = edges.square().square()
        strength = torch.sqrt(edges.square().mean(dim=1, keepdim=True))
        votes = strong / strong.sum(dim=1, keepdim=True).clamp(min=1e-12) * strength
        cells = functional.adaptive_avg_pool2d(functional.pad(votes, (1, 1, 1, 1)), _CELLS).flatten(1)
        return torch.sqrt((cells / cells.sum(dim=1, keepdim=True).clamp(min=1e-6)).clamp(min=1e-8))
