"""What is asked of a method: queries, a gallery, and which gallery rows are right. Every method answers the same tasks.

Q queries, G gallery rows, b rows of one block of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from encoders.images import ImageLoader
from encoders.item import Item
from moontide.embeddings import Embeddings

RECALLS: Final = ("recall_at_1", "recall_at_10", "recall_at_50")
RANKINGS: Final = (*RECALLS, "precision_at_10", "map")
VOTES: Final = ("accuracy",)

#: Scores of queries `start` to `stop` against the whole gallery: (b, G) float32, higher is better.
Scores = Callable[[int, int], NDArray[np.float32]]
#: Items to (B, D) float rows or `Embeddings`, in order. Pictures come as bytes.
Embed = Callable[[Sequence[Item]], NDArray[np.floating] | Embeddings]


class Mask(Protocol):
    """A (Q, G) table of booleans that is only ever made a block of queries at a time."""

    def block(self, start: int, stop: int) -> NDArray[np.bool_]:
        """(b, G) for queries `start` to `stop`."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The mask of these queries."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SameKey:
    """True where the (Q,) and (G,) int64 keys are equal; a key below 0 equals nothing."""

    queries: NDArray[np.int64]
    gallery: NDArray[np.int64]

    @classmethod
    def of(cls, queries: Sequence[Hashable | None], gallery: Sequence[Hashable | None]) -> SameKey:
        """From any values; None equals nothing."""
        known: dict[Hashable | None, int] = {None: -1}
        keys = [known.setdefault(value, len(known)) for value in (*queries, *gallery)]
        return cls(np.array(keys[: len(queries)], np.int64), np.array(keys[len(queries) :], np.int64))

    def block(self, start: int, stop: int) -> NDArray[np.bool_]:
        """(b, G) for queries `start` to `stop`."""
        keys = self.queries[start:stop, None]
        return (keys == self.gallery[None, :]) & (keys >= 0)

    def take(self, rows: NDArray[np.int64]) -> SameKey:
        """The mask of these queries."""
        return SameKey(self.queries[rows], self.gallery)


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """True at `columns[k]`, an int64 array of gallery rows for each query; `width` is G."""

    columns: tuple[NDArray[np.int64], ...]
    width: int

    def block(self, start: int, stop: int) -> NDArray[np.bool_]:
        """(b, G) for queries `start` to `stop`."""
        chosen = self.columns[start:stop]
        found = np.zeros((len(chosen), self.width), np.bool_)
        for row, columns in enumerate(chosen):
            found[row, columns] = True
        return found

    def take(self, rows: NDArray[np.int64]) -> Listed:
        """The mask of these queries."""
        return Listed(tuple(self.columns[row] for row in rows), self.width)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Which gallery rows are right.

    Args:
        relevant: right answers.
        excluded: what is out of a query's gallery, also where it is relevant: its own row, its own title, its own group.
        groups: (Q,) int64; queries of one group are drawn together in the bootstrap.
    """

    relevant: Mask
    excluded: tuple[Mask, ...]
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One question with its right answers.

    Args:
        name: ``<data set>/<task>``.
        folder: images of the items are paths below it; `loaded` reads them.
        queries: Q items.
        gallery: G items.
        truth: right answers.
        measures: of `RANKINGS` and `VOTES`; for `VOTES` `truth.relevant` is a `SameKey` of the values to predict.
    """

    name: str
    folder: Path
    queries: tuple[Item, ...]
    gallery: tuple[Item, ...]
    truth: Truth
    measures: tuple[str, ...] = RECALLS

    @property
    def reads(self) -> frozenset[str]:
        """``image``, ``text`` or both: what a method must be able to read to answer."""
        items = (*self.queries, *self.gallery)
        found = {"image" for item in items if item.image is not None} | {"text" for item in items if item.has_text}
        return frozenset(found)

    def take(self, rows: NDArray[np.int64]) -> Task:
        """The same task with these queries only."""
        truth = self.truth
        kept = Truth(truth.relevant.take(rows), tuple(mask.take(rows) for mask in truth.excluded), truth.groups[rows])
        return replace(self, queries=tuple(self.queries[row] for row in rows), truth=kept)

    def answerable(self) -> NDArray[np.bool_]:
        """(Q,) whether any right answer is left in the query's gallery."""
        found = [self.right(start, stop)[0].any(axis=1) for start, stop in blocks(len(self.queries), len(self.gallery))]
        return np.concatenate([np.zeros(0, np.bool_), *found])

    def right(self, start: int, stop: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(b, G) relevant and not excluded, and (b, G) excluded."""
        out = np.zeros((stop - start, len(self.gallery)), np.bool_)
        for mask in self.truth.excluded:
            out |= mask.block(start, stop)
        return self.truth.relevant.block(start, stop) & ~out, out


class Method(Protocol):
    """Whatever can rank a gallery: an encoder, its untrained copy, a histogram, BM25.

    Attributes:
        name: column of the table, e.g. ``bm25``.
        reads: subset of ``image`` and ``text``; tasks that need more are not asked of it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def reads(self) -> frozenset[str]: ...  # noqa: D102

    def scores(self, task: Task) -> Scores:
        """Scores of the task's queries against its gallery."""
        ...


def blocks(rows: int, width: int, *, cells: int = 1 << 22) -> list[tuple[int, int]]:
    """(start, stop) that cover `rows` with at most `cells` cells of a table `width` wide in each."""
    step = max(1, cells // max(1, width))
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]


def loaded(items: Sequence[Item], folder: Path) -> list[Item]:
    """The items with the bytes of their pictures instead of paths below `folder`."""
    loader = ImageLoader(root=folder)
    return [item if item.image is None else replace(item, image=loader.read(item.image)) for item in items]


def text_of(item: Item) -> str:
    """Title, attributes and description in one string, for methods that know no fields."""
    return " ".join(part for part in (item.title, item.attributes, item.description) if part)


def squash(title: str) -> str:
    """What makes two titles the same string: case and white space do not count."""
    return " ".join(title.casefold().split())


def numbered(values: Sequence[Hashable]) -> NDArray[np.int64]:
    """(Q,) the same number for the same value."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
