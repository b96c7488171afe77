"""A few pictures and items of data sets, evenly picked: what an export is compared and calibrated with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from encoders.data import DataSet
from encoders.images import ImageLoader, decode
from encoders.item import Item, Unencodable

_HEADER_SIDE = 8


def sample_pixels(data_sets: Sequence[DataSet], side: int, count: int) -> NDArray[np.uint8]:
    """(at most `count`, side, side, 3) first pictures of items of the train split; one that cannot be read is left out."""
    places = _even([(data, row) for data in data_sets for row in data.rows("train") if data.examples[row].images], count)
    pixels = []
    for data, row in places:
        with suppress(Unencodable):
            pixels.append(data.pixels(data.examples[row].images[0], side))
    return np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)


def sample_items(data_sets: Sequence[DataSet], split: str, count: int) -> list[Item]:
    """At most `count` items of a split; those with picture and text are taken whole, as a picture, and as a text, in turn.

    A picture that cannot be read is left out.
    """
    items = []
    forms = cycle(("whole", "picture", "text"))
    places = [(data, row) for data in data_sets for row in data.rows(split)]
    for data, row in _even(places, count):
        example = data.examples[row]
        item = example.item
        texts = any((item.title, item.description, item.attributes))
        picture = _picture(data, example.images[0]) if example.images else None
        form = next(forms) if texts and picture is not None else "whole"
        if form == "picture":
            items.append(Item(item.item_id, image=picture))
        elif texts or picture is not None:
            items.append(item if form == "text" else replace(item, image=picture))
    return items


def _picture(data: DataSet, name: str) -> bytes | None:
    try:
        content = ImageLoader(root=data.folder).read(name)
        decode(content, (_HEADER_SIDE, _HEADER_SIDE))
    except Unencodable:
        return None
    return content


def _even(places: list[tuple[DataSet, int]], count: int) -> list[tuple[DataSet, int]]:
    rows = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64))
    return [places[row] for row in rows]
