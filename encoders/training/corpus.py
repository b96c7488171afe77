"""All items of all data sets in one row of arrays: what the sampler draws from. N items, I pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.data import UNKNOWN_LABELS, DataSet, Example
from encoders.item import Item
from encoders.transactions import Baskets

UNKNOWN: Final = -1
CATEGORY_COLUMN: Final = "main_category"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file of a data set."""

    data_set: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Items of one split.

    Attributes:
        items: N; their ids are unique within a data set only.
        data_set, group, category, label, product: (N,) int64, -1 where unknown; numbers are of all data sets.
        label_names: names of the labels, by number.
        pictures: I files; item n owns ``picture_offsets[n]:picture_offsets[n + 1]``.
        variants: per item, other titles it was sold under.
        baskets: items bought together, as rows of the corpus; None: no sales.
        sold: (N,) baskets an item was in, as far as they are known.
        unreadable: pictures left out.
    """

    items: tuple[Item, ...]
    data_set: NDArray[np.int64]
    group: NDArray[np.int64]
    product: NDArray[np.int64]
    category: NDArray[np.int64]
    label: NDArray[np.int64]
    label_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    picture_offsets: NDArray[np.int64]
    variants: tuple[tuple[str, ...], ...]
    baskets: Baskets | None
    sold: NDArray[np.int64]
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.items)

    @property
    def picture_counts(self) -> NDArray[np.int64]:
        """(N,) pictures of each item."""
        return np.diff(self.picture_offsets)

    @property
    def titled(self) -> NDArray[np.bool_]:
        """(N,) whether an item has a title."""
        return np.array([bool(item.title) for item in self.items], bool)

    def item_of_picture(self) -> NDArray[np.int64]:
        """(I,) rows."""
        return np.repeat(np.arange(len(self)), self.picture_counts)


def build_corpus(data_sets: Sequence[DataSet], split: str, readable: Callable[[Picture], bool] = lambda _: True) -> Corpus:
    """The items of `split` of all data sets, in their order; pictures that are not readable are left out and counted."""
    places = [(at, row) for at, data in enumerate(data_sets) for row in data.rows(split)]
    examples = [data_sets[at].examples[row] for at, row in places]
    owned = [[Picture(at, name) for name in e.images] for (at, _), e in zip(places, examples, strict=True)]
    sound = [[picture for picture in files if readable(picture)] for files in owned]
    pictures = [picture for files in sound for picture in files]
    labels = [example.label if example.label not in UNKNOWN_LABELS else None for example in examples]
    names = tuple(sorted({label for label in labels if label}))
    position = {place: at for at, place in enumerate(places)}
    variants: list[list[str]] = [[] for _ in places]
    for at, data in enumerate(data_sets):
        for row, text in data.variants:
            if (at, row) in position:
                variants[position[at, row]].append(text)
    together, sold = _baskets(data_sets, position, len(places))
    return Corpus(
        items=tuple(example.item for example in examples),
        data_set=np.array([at for at, _ in places], np.int64),
        group=_numbers([example.group for example in examples]),
        product=_numbers([f"{at}/{e.product or e.item.item_id}" for (at, _), e in zip(places, examples, strict=True)]),
        category=_numbers([_category(label, e) for label, e in zip(labels, examples, strict=True)]),
        label=_numbers(labels, names),
        label_names=names,
        pictures=tuple(pictures),
        picture_offsets=np.concatenate([[0], np.cumsum([len(files) for files in sound])]).astype(np.int64),
        variants=tuple(tuple(texts) for texts in variants),
        baskets=together,
        sold=sold,
        unreadable=sum(map(len, owned)) - len(pictures),
    )


def _category(label: str | None, example: Example) -> str | None:
    return label or example.values.get(CATEGORY_COLUMN)


def _numbers(values: Sequence[str | None], names: Sequence[str] | None = None) -> NDArray[np.int64]:
    index = {name: at for at, name in enumerate(names if names is not None else sorted({v for v in values if v}))}
    return np.array([index.get(value, UNKNOWN) if value else UNKNOWN for value in values], np.int64)


def _baskets(
    data_sets: Sequence[DataSet], position: dict[tuple[int, int], int], count: int
) -> tuple[Baskets | None, NDArray[np.int64]]:
    """Baskets of two items or more of this split, and how many baskets each item is in."""
    sold = np.zeros(count, np.int64)
    items, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for at, data in enumerate(data_sets):
        if data.baskets is None:
            continue
        rows = np.full(max(len(data.examples), 1), UNKNOWN, np.int64)
        for row in range(len(data.examples)):
            rows[row] = position.get((at, row), UNKNOWN)
        places = rows[data.baskets.items]
        owner = np.repeat(np.arange(len(data.baskets.offsets) - 1), np.diff(data.baskets.offsets))
        places, owner = places[places >= 0], owner[places >= 0]
        np.add.at(sold, places, 1)
        full = np.bincount(owner, minlength=1)[owner] >= 2 if len(owner) else np.zeros(0, bool)
        items.append(places[full])
        sizes.append(np.unique(owner[full], return_counts=True)[1].astype(np.int64))
    if not sum(len(part) for part in items):
        return None, sold
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return Baskets(np.concatenate(items), offsets), sold
