"""Which regions of a picture made its vector.

Two ways. Occlusion asks any encoder, through the model that is served: a region is covered, and what the cosine loses is what
the region gave. Class activation (Zhou et al., section 2) splits a linear projection of averaged features exactly, for whoever
has the features before the average.

P pictures, H x W their size, g x g regions, D the space's dim, h x w and C the size and channels of a feature map.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from encoders.evaluation.baselines import unit_rows
from encoders.runtime import Encoder, Prepared
from encoders.tokenizer import Tokens
from moontide.errors import Misconfigured

GRID: Final = 7
CHUNK_PICTURES: Final = 4
# Colours that differ for colour-blind eyes too: what holds the vector up in orange, what works against it in blue.
FOR: Final = (232, 93, 4)
AGAINST: Final = (30, 96, 200)
_STRONGEST: Final = 0.72
_QUALITY: Final = 82

#: (N, H, W, 3) uint8 -> (N, D) float32.
EmbedPixels = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """What each region gives.

    Attributes:
        values: (g, g) float32, row by row from the top: cosine of the whole picture less that without the region; below 0
            where the region works against the target.
        cosine: of the whole picture with the target.
    """

    values: NDArray[np.float32]
    cosine: float

    @property
    def strongest(self) -> float:
        """Largest loss or gain of any region: what full colour stands for."""
        return float(np.abs(self.values).max(initial=0.0))


def pixels_of(encoder: Encoder) -> EmbedPixels:
    """An artifact on decoded pictures alone, before quantisation: one covered region may change less than a code."""

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = len(pixels)
        names = tuple(map(str, range(count)))
        nothing = Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(count + 1, np.int64))
        return encoder.floats(Prepared(names, ("",) * count, pixels, np.arange(count), nothing, ()))

    return embed


def occlusion(
    embed: EmbedPixels,
    pixels: NDArray[np.uint8],
    targets: NDArray[np.float32] | None = None,
    *,
    grid: int = GRID,
    blur: bool = False,
) -> list[HeatMap]:
    """Maps of P >= 0 pictures.

    Args:
        embed: the encoder.
        pixels: (P, H, W, 3) uint8.
        targets: (P, D), e.g. vectors of the titles; None: each picture's own vector.
        grid: g; the picture is cut into g x g regions, as even as whole pixels allow.
        blur: cover a region with the picture blurred, which keeps its colours; False: with the picture's mean colour.

    Raises:
        Misconfigured: fewer pixels than regions, or other than P targets.
    """
    if pixels.ndim != 4 or not 1 <= grid <= min(pixels.shape[1:3]):
        raise Misconfigured(f"heat map: expected (P, H, W, 3) pictures of at least {grid} x {grid} pixels, got {pixels.shape}")
    if targets is not None and len(targets) != len(pixels):
        raise Misconfigured(f"heat map: expected {len(pixels)} targets, one a picture, got {len(targets)}")
    maps = []
    for start in range(0, len(pixels), CHUNK_PICTURES):
        chunk = pixels[start : start + CHUNK_PICTURES]
        covered = np.concatenate([_covered(picture, grid, blur) for picture in chunk])
        vectors = unit_rows(embed(covered)).reshape(len(chunk), 1 + grid * grid, -1)
        aims = vectors[:, 0] if targets is None else unit_rows(np.asarray(targets[start : start + CHUNK_PICTURES], np.float32))
        cosines = np.einsum("pnd,pd->pn", vectors, aims)
        losses = (cosines[:, :1] - cosines[:, 1:]).reshape(-1, grid, grid)
        maps += [HeatMap(loss, float(cosine)) for loss, cosine in zip(losses, cosines[:, 0], strict=True)]
    return maps


def class_activation(
    features: NDArray[np.float32], weight: NDArray[np.float32], target: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(h, w) shares of ``target . (weight @ mean of features)``; their sum is that product.

    Args:
        features: (C, h, w) of one picture, before the average.
        weight: (D, C) of the linear projection.
        target: (D,).
    """
    height, width = features.shape[1:]
    shares: NDArray[np.float32] = np.einsum("c,chw->hw", target @ weight, features) / np.float32(height * width)
    return shares


def overlay(pixels: NDArray[np.uint8], heat: HeatMap, *, side: int = 160) -> Image.Image:
    """The picture, longer side `side`, with its map over it: full colour is `HeatMap.strongest`, no colour is 0."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), np.float32)
    if heat.strongest <= 0:
        return Image.fromarray(picture.astype(np.uint8))
    small = Image.fromarray((heat.values / heat.strongest).astype(np.float32), mode="F")
    strength = np.clip(np.asarray(small.resize(size, Image.Resampling.BICUBIC)), -1.0, 1.0)[:, :, None]
    colour = np.where(strength >= 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    # Grey below, so that the colours of the picture are not taken for those of the map.
    grey = picture.mean(axis=2, keepdims=True)
    base = 0.35 * picture + 0.65 * grey
    opaque = np.abs(strength) * _STRONGEST
    return Image.fromarray(np.clip(base * (1 - opaque) + colour * opaque, 0, 255).astype(np.uint8))


def jpeg(picture: Image.Image | NDArray[np.uint8]) -> bytes:
    """The bytes of a JPEG, RGB."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def edges(length: int, grid: int) -> list[int]:
    """The grid + 1 bounds of regions along a side of `length` pixels."""
    return [round(at * length / grid) for at in range(grid + 1)]


def _covered(picture: NDArray[np.uint8], grid: int, blur: bool) -> NDArray[np.uint8]:
    """(1 + g * g, H, W, 3): the picture, then without each region in turn."""
    height, width = picture.shape[:2]
    if blur:
        cover = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(max(height, width) / grid)))
    else:
        cover = np.broadcast_to(np.rint(picture.mean(axis=(0, 1))).astype(np.uint8), picture.shape)
    rows, columns = edges(height, grid), edges(width, grid)
    found = np.repeat(picture[None], 1 + grid * grid, axis=0)
    for row in range(grid):
        for column in range(grid):
            window = (slice(rows[row], rows[row + 1]), slice(columns[column], columns[column + 1]))
            found[1 + row * grid + column][window] = cover[window]
    return found
