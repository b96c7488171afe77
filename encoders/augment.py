"""Augmentations: pictures as one batch of tensors, titles as strings. Randomness is passed in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


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


def vary_title(title: str, random: np.random.Generator, *, drop: float = 0.2, misspell: float = 0.15) -> str:
    """Another way to write a title: words dropped, swapped, joined, shortened or misspelt. Never empty.

    `drop` and `misspell` are the probabilities of each word.
    """
    words = title.split()
    if len(words) > 2:
        keep = random.random(len(words)) > drop
        words = [word for word, kept in zip(words, keep, strict=True) if kept] or words
    if len(words) > 1 and random.random() < 0.5:
        at = int(random.integers(len(words) - 1))
        words[at], words[at + 1] = words[at + 1], words[at]
    if len(words) > 1 and random.random() < 0.15:
        at = int(random.integers(len(words) - 1))
        words[at : at + 2] = [words[at] + words[at + 1]]
    return " ".join(_misspell(word, random) if random.random() < misspell else word for word in words)


def _misspell(word: str, random: np.random.Generator) -> str:
    if len(word) < 4:
        return word
    at = int(random.integers(1, len(word) - 1))
    choice = int(random.integers(5))
    if choice == 0:
        return word[:at] + word[at + 1 :]
    if choice == 1:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if choice == 2:
        return word[:at] + _LETTERS[int(random.integers(26))] + word[at:]
    if choice == 3:
        return word[: max(3, at)]
    return word[:-1] if word[-1] in "sS" else word + "s"
