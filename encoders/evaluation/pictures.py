"""Small pictures for the report: as JPEG, within a budget, and with heat maps over some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.artifact import LAYOUT
from encoders.data import Example
from encoders.evaluation.heatmap import HeatMap, jpeg, occlusion, overlay, pixels_of
from encoders.evaluation.tasks import text_of
from encoders.evaluation.tasks_build import Built
from encoders.evaluation.vectors import Vectors
from encoders.images import ImageLoader, decode
from encoders.item import Item, Unencodable

#: Bytes of all JPEGs of a page; as base64 they take a third more, and the page stays below 5 MB.
BUDGET: Final = 3_200_000
SIDE: Final = 96
HEAT_SIDE: Final = 144
HEAT_PICTURES: Final = 8


class Pictures:
    """Hands out JPEGs until `budget` bytes are spent, and None from then on."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget
        self._made: dict[tuple[Path, bytes | str], bytes | None] = {}

    def of(self, item: Item, folder: Path) -> bytes | None:
        """A thumbnail of the item's picture; None where it has none, it cannot be read, or the budget is spent."""
        if item.image is None:
            return None
        key = (folder, item.image)
        if key not in self._made:
            try:
                self._made[key] = jpeg(decode(ImageLoader(root=folder).read(item.image), (SIDE, SIDE)))
            except Unencodable:
                self._made[key] = None
        made = self._made[key]
        return None if made is None else self.spend(made)

    def spend(self, data: bytes) -> bytes | None:
        """`data`, or None where it is more than what is left."""
        if len(data) > self._left:
            return None
        self._left -= len(data)
        return data


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture as JPEG, and (against what, map, picture under the map as JPEG)."""

    words: str
    plain: bytes
    maps: tuple[tuple[str, HeatMap, bytes], ...]


def heat_maps(built: Built, vectors: Vectors, *, seed: int, count: int = HEAT_PICTURES) -> list[Drawn]:
    """Maps of `count` pictures drawn under `seed`, against their own vector and, where there is a title, the title's.

    Empty where the encoder has no image model, or the data no pictures.
    """
    encoder = vectors.encoder
    pictured = [example for example in built.examples if example.images]
    if LAYOUT.image_model not in encoder.artifact.files or not pictured:
        return []
    rows = np.sort(np.random.default_rng(seed).choice(len(pictured), min(count, len(pictured)), replace=False))
    chosen = [pictured[row] for row in rows]
    size = (encoder.artifact.preprocessing.height, encoder.artifact.preprocessing.width)
    loader = ImageLoader(root=built.folder)
    pixels = np.stack([decode(loader.read(example.images[0]), size) for example in chosen])
    own = occlusion(pixels_of(encoder), pixels)
    titled = _against_titles(built, vectors, chosen, pixels)
    found = []
    for at, example in enumerate(chosen):
        maps = [("own vector", own[at]), *([("title", titled[at])] if at in titled else [])]
        drawn = tuple((what, heat, jpeg(overlay(pixels[at], heat, side=HEAT_SIDE))) for what, heat in maps)
        plain = Image.fromarray(pixels[at]).resize((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR)
        found.append(Drawn(text_of(_words(example)) or example.label or example.item.item_id, jpeg(plain), drawn))
    return found


def _against_titles(built: Built, vectors: Vectors, chosen: Sequence[Example], pixels: NDArray[np.uint8]) -> dict[int, HeatMap]:
    """Maps by the place in `chosen` of those that have a title with a vector."""
    rows = [at for at, example in enumerate(chosen) if example.item.title]
    titles = vectors.floats([_words(chosen[at]) for at in rows], built.folder)
    known: NDArray[np.bool_] = np.any(titles, axis=1)
    rows, titles = [row for row, has in zip(rows, known, strict=True) if has], titles[known]
    return dict(zip(rows, occlusion(pixels_of(vectors.encoder), pixels[rows], titles), strict=True))


def _words(example: Example) -> Item:
    return Item("", title=example.item.title, attributes=example.item.attributes)
