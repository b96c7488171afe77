"""Augmentations of pictures, as one batch of tensors; those of titles are `encoders.wording`'s. Randomness is passed in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from encoders.wording import vary_title

__all__ = ["augment_images", "vary_title"]


def augment_images(pixels: Tensor, side: int, random: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Random crops, flips, small turns and light changes.

    Hue is left alone: colour is part of what an item is.

    Args:
        pixels: (B, S, S, 3) uint8.
        side: of the result.
        random: the only source of randomness.
        strength: 0 for a plain resize.

    Returns:
        (B, 3, side, side) float32 in 0..1.
    """
    count = len(pixels)
    if not count:
        return torch.zeros(0, 3, side, side)
    x = pixels.permute(0, 3, 1, 2).float() / 255.0

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    scale = torch.sqrt(draw(1.0 - 0.6 * strength, 1.0))
    aspect = torch.exp(draw(-0.25, 0.25) * strength)
    wide, tall = (scale * aspect).clamp(max=1.0), (scale / aspect).clamp(max=1.0)
    flip = torch.where(draw(0.0, 1.0) < 0.5 * strength, -1.0, 1.0)
    angle = draw(-0.15, 0.15) * strength
    shift_x, shift_y = draw(-1.0, 1.0) * (1.0 - wide), draw(-1.0, 1.0) * (1.0 - tall)
    top = torch.stack([flip * wide * torch.cos(angle), -tall * torch.sin(angle), shift_x], dim=1)
    bottom = torch.stack([flip * wide * torch.sin(angle), tall * torch.cos(angle), shift_y], dim=1)
    grid = functional.affine_grid(torch.stack([top, bottom], dim=1), [count, 3, side, side], align_corners=False)
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    light = torch.exp(draw(-0.3, 0.3) * strength)[:, None, None, None]
    contrast = torch.exp(draw(-0.3, 0.3) * strength)[:, None, None, None]
    colour = torch.exp(draw(-0.25, 0.25) * strength)[:, None, None, None]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast) * light
    grey = x.mean(dim=1, keepdim=True)
    return (grey + (x - grey) * colour).clamp(0.0, 1.0)
