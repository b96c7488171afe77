"""A few pictures and items of data sets, evenly picked: what an export is compared and calibrated with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from encoders.data import DataSet
from encoders.images import ImageLoader
from encoders.item import Item


def sample_pixels(data_sets: Sequence[DataSet], side: int, count: int) -> NDArray[np.uint8]:
    """(at most `count`, side, side, 3) first pictures of items of the train split."""
    places = _even([(data, row) for data in data_sets for row in data.rows("train") if data.examples[row].images], count)
    pixels = [data.pixels(data.examples[row].images[0], side) for data, row in places]
    return np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)


def sample_items(data_sets: Sequence[DataSet], split: str, count: int) -> list[Item]:
    """At most `count` items of a split; those with picture and text are taken whole, as a picture, and as a text, in turn."""
    items = []
    forms = cycle(("whole", "picture", "text"))
    places = [(data, row) for data in data_sets for row in data.rows(split)]
    for data, row in _even(places, count):
        example = data.examples[row]
        item = example.item
        texts = any((item.title, item.description, item.attributes))
        picture = ImageLoader(root=data.folder).read(example.images[0]) if example.images else None
        form = next(forms) if texts and picture is not None else "whole"
        if form == "picture":
            items.append(Item(item.item_id, image=picture))
        elif texts or picture is not None:
            items.append(item if form == "text" else replace(item, image=picture))
    return items


def _even(places: list[tuple[DataSet, int]], count: int) -> list[tuple[DataSet, int]]:
    rows = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64))
    return [places[row] for row in rows]
