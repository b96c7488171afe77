"""Draws training batches: photos, illustrated items, title pairs and baskets, each from training groups only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.augment import vary_title
from encoders.data import UNKNOWN_LABELS, Baskets, DataSet
from encoders.item import Item
from encoders.tokenizer import Tokenizer

CACHE_SIDE = 112


@dataclass(frozen=True, slots=True)
class Photos:
    """Labelled photos: pixels (N, S, S, 3) uint8, label index (N,), -1 where unknown, and the labels' names."""

    pixels: Tensor
    labels: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Illustrated:
    """Items with text and pictures: item k owns the pictures ``offsets[k]:offsets[k + 1]``."""

    items: tuple[Item, ...]
    pixels: Tensor
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Titles:
    """Text-only items with the other titles each was sold under, and what was bought together."""

    titles: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...]
    baskets: Baskets | None
    log_q: NDArray[np.float32]


def photos_of(data_sets: Sequence[DataSet], split: str = "train") -> Photos:
    """Photos of items that have a label but no title."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for data in data_sets:
        for row in data.rows(split):
            example = data.examples[row]
            if example.label and not example.item.title and example.images:
                pixels.append(data.pixels(example.images[0], CACHE_SIDE))
                labels.append(example.label)
    names = tuple(sorted(set(labels) - UNKNOWN_LABELS))
    index = {name: at for at, name in enumerate(names)}
    numbers = np.array([index.get(label, -1) for label in labels], np.int64)
    return Photos(_stack(pixels), numbers, names)


def illustrated_of(data_sets: Sequence[DataSet], split: str = "train") -> Illustrated:
    """Items that have both a title and pictures."""
    items: list[Item] = []
    pixels: list[NDArray[np.uint8]] = []
    counts = [0]
    for data in data_sets:
        for row in data.rows(split):
            example = data.examples[row]
            if example.item.title and example.images:
                items.append(example.item)
                pixels.extend(data.pixels(name, CACHE_SIDE) for name in example.images)
                counts.append(len(example.images))
    return Illustrated(tuple(items), _stack(pixels), np.cumsum(counts))


def titles_of(data_sets: Sequence[DataSet], split: str = "train") -> list[Titles]:
    """One entry per data set whose items have titles but no pictures; baskets keep the training rows only."""
    found = []
    for data in data_sets:
        rows = [r for r in data.rows(split) if data.examples[r].item.title and not data.examples[r].images]
        if not rows:
            continue
        others: dict[int, list[str]] = {row: [] for row in rows}
        for row, text in data.variants:
            if row in others:
                others[row].append(text)
        titles = tuple(data.examples[row].item.title or "" for row in rows)
        baskets, log_q = _restrict(data.baskets, rows)
        found.append(Titles(titles, tuple(tuple(others[row]) for row in rows), baskets, log_q))
    return found


def _restrict(baskets: Baskets | None, rows: Sequence[int]) -> tuple[Baskets | None, NDArray[np.float32]]:
    """Baskets over positions in `rows`, and the log probability with which `draw_pairs` draws each position."""
    if baskets is None:
        return None, np.zeros(len(rows), np.float32)
    position = np.full(int(baskets.items.max(initial=0)) + max(rows) + 2, -1, np.int64)
    position[rows] = np.arange(len(rows))
    places = position[baskets.items]
    owner = np.repeat(np.arange(len(baskets.offsets) - 1), np.diff(baskets.offsets))[places >= 0]
    places = places[places >= 0]
    sizes = np.bincount(owner)
    big = sizes[owner] >= 2
    places, owner = places[big], owner[big]
    counts = np.unique(owner, return_counts=True)[1]
    share = np.bincount(places, weights=1.0 / sizes[owner], minlength=len(rows)) / max(len(counts), 1)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Baskets(places, offsets), np.log(share + 1e-6).astype(np.float32)


def draw_pairs(baskets: Baskets, count: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(count,) and (count,) positions: two different items of one basket each, baskets drawn evenly."""
    chosen = random.integers(len(baskets.offsets) - 1, size=count)
    start, size = baskets.offsets[chosen], np.diff(baskets.offsets)[chosen]
    first = random.integers(size)
    second = (first + 1 + random.integers(size - 1)) % size
    return baskets.items[start + first], baskets.items[start + second]


def draw_titles(titles: Titles, count: int, random: np.random.Generator) -> tuple[list[str], list[str]]:
    """(count,) and (count,) ways to write the same title."""
    left, right = [], []
    for row in random.choice(len(titles.titles), size=count, replace=False):
        options = (titles.titles[row], *titles.variants[row])
        first, second = (options[int(random.integers(len(options)))] for _ in range(2))
        left.append(first if random.random() < 0.5 else vary_title(first, random))
        # Damage of every degree, or the weights would fit one kind of query.
        damage = random.random()
        right.append(vary_title(second, random, drop=0.1 + 0.4 * damage, misspell=0.3 * damage))
    return left, right


def drop_fields(item: Item, random: np.random.Generator) -> Item:
    """The item with some text fields missing and a varied title, as catalogs have it."""
    if item.description and random.random() < 0.2:
        return replace(item, title=None, attributes=None)
    keep_title = not item.attributes or random.random() < 0.85
    return replace(
        item,
        title=vary_title(item.title or "", random) if keep_title else None,
        attributes=item.attributes if not keep_title or random.random() < 0.8 else None,
        description=item.description if random.random() < 0.4 else None,
    )


def token_tensors(tokenizer: Tokenizer, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """Ids and kinds (B, L), int64."""
    ids, kinds = tokenizer(items).padded(np.arange(len(items)))
    return torch.from_numpy(ids).long(), torch.from_numpy(kinds).long()


def inverse_frequencies(tokenizer: Tokenizer, items: Sequence[Item], power: float = 0.5) -> Tensor:
    """(V,) inverse document frequencies to a power below 1 (misspelt words are rare too), 1 for a bucket never seen."""
    tokens = tokenizer(items)
    owners = np.repeat(np.arange(len(tokens)), tokens.lengths)
    pairs = np.unique(owners * np.int64(tokenizer.config.buckets) + tokens.ids)
    seen = np.bincount(pairs % tokenizer.config.buckets, minlength=tokenizer.config.buckets)
    idf = np.log((len(items) + 1.0) / (seen + 0.5))
    return torch.from_numpy((idf / idf.max()).clip(0.02) ** power).float()


def _stack(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    if not pixels:
        return torch.zeros(0, CACHE_SIDE, CACHE_SIDE, 3, dtype=torch.uint8)
    return torch.from_numpy(np.stack(pixels))
