"""Image baselines without learning: a colour histogram, HOG, and both together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.baselines import IMAGE, dense_scores, optional, unit_rows
from encoders.evaluation.tasks import Scores, Task
from encoders.images import ImageLoader, decode
from encoders.item import Item, Unencodable

SIDE: Final = 128
HUE_BINS: Final = 12
SATURATION_BINS: Final = 4
VALUE_BINS: Final = 4

#: (SIDE, SIDE, 3) uint8 -> (W,) float32 of length 1.
Describe = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """Cosine of fixed descriptors less their mean over the gallery: what all its pictures share says nothing.

    A picture that cannot be decoded scores 0 everywhere. Each picture is described once, also over several tasks.

    Args:
        name: row of the table.
        parts: descriptors, laid side by side with equal weight.
    """

    name: str
    parts: tuple[Describe, ...]
    reads: frozenset[str] = IMAGE
    _known: dict[bytes, tuple[NDArray[np.float32], ...]] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, task: Task) -> Scores:
        """Cosines."""
        found = self._described(task.gallery, task.folder)
        asked = found if task.queries == task.gallery else self._described(task.queries, task.folder)
        sides: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
        for part in range(len(self.parts)):
            known = [row[part] for row in found if row is not None]
            mean = np.mean(known, axis=0) if known else None
            for rows, side in zip((asked, found), sides, strict=True):
                side.append(_centred([None if row is None else row[part] for row in rows], mean))
        queries, gallery = (unit_rows(np.concatenate(side, axis=1)) for side in sides)
        return dense_scores(queries, gallery)

    def _described(self, items: Sequence[Item], folder: Path) -> list[tuple[NDArray[np.float32], ...] | None]:
        loader = ImageLoader(root=folder)
        return [self._one(loader, item) for item in items]

    def _one(self, loader: ImageLoader, item: Item) -> tuple[NDArray[np.float32], ...] | None:
        try:
            data = loader.read(item.image or b"")
            key = hashlib.blake2b(data, digest_size=16).digest()
            if key not in self._known:
                pixels = decode(data, (SIDE, SIDE))
                self._known[key] = tuple(part(pixels) for part in self.parts)
            return self._known[key]
        except Unencodable:
            return None


def colour_histogram(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(192,) square root (Hellinger) of a soft HSV histogram of 12 x 4 x 4 bins; hue is a circle.

    A pixel shares itself out among its 8 nearest bins, so that a little more light does not move it to another one.
    """
    colour = optional("skimage.color", "scikit-image")
    # Every second pixel of every second line: a quarter of the time for the same shares.
    hsv = colour.rgb2hsv(pixels[::2, ::2]).reshape(-1, 3)
    shape = (HUE_BINS, SATURATION_BINS, VALUE_BINS)
    at = np.concatenate([hsv[:, :1] * HUE_BINS, hsv[:, 1:] * (np.array(shape[1:]) - 1)], axis=1)
    low = np.floor(at).astype(np.int64)
    part = at - low
    bins = np.zeros(int(np.prod(shape)))
    for corner in np.ndindex(2, 2, 2):
        weights = np.prod(np.where(np.array(corner), part, 1.0 - part), axis=1)
        hue, saturation, value = (low + corner).T
        # The bin behind the last one is reached with weight 0 only.
        cell = np.ravel_multi_index(
            (hue % HUE_BINS, np.minimum(saturation, SATURATION_BINS - 1), np.minimum(value, VALUE_BINS - 1)), shape
        )
        bins += np.bincount(cell, weights, minlength=len(bins))
    return _unit(np.sqrt(bins))


def oriented_gradients(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(1764,) HOG (Dalal and Triggs): 9 orientations, 16 x 16 pixel cells, 2 x 2 cell blocks, L2-Hys; 0 for a flat picture."""
    feature = optional("skimage.feature", "scikit-image")
    cells = {"pixels_per_cell": (16, 16), "cells_per_block": (2, 2)}
    found: NDArray[np.float64] = feature.hog(pixels, orientations=9, block_norm="L2-Hys", channel_axis=-1, **cells)
    return _unit(found)


def histogram_method() -> PictureFeatures:
    """Colour alone."""
    return PictureFeatures("colour histogram", (colour_histogram,))


def hog_method() -> PictureFeatures:
    """Shape alone."""
    return PictureFeatures("HOG", (oriented_gradients,))


def histogram_hog_method() -> PictureFeatures:
    """Colour and shape with equal weight."""
    return PictureFeatures("histogram + HOG", (colour_histogram, oriented_gradients))


def _centred(rows: Sequence[NDArray[np.float32] | None], mean: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """(B, W) unit rows less `mean`; zero for None, and everywhere where the gallery has no picture."""
    if mean is None:
        return np.zeros((len(rows), 1), np.float32)
    out = np.zeros((len(rows), len(mean)), np.float32)
    for at, row in enumerate(rows):
        if row is not None:
            out[at] = row - mean
    return unit_rows(out)


def _unit(row: NDArray[np.floating]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = unit_rows(row.astype(np.float32)[None, :])[0]
    return found
