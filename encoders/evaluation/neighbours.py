"""What a method finds for single queries: some it gets right, some it gets wrong, and those it gets most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.tasks import Method, Task, blocks
from encoders.item import Item

SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Hit:
    """A gallery item, its score, and whether it is a right answer."""

    item: Item
    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A query with its nearest items, best first; `best_right` is the rank, from 1, of the first right answer."""

    query: Item
    hits: tuple[Hit, ...]
    best_right: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """Cases of one task. `found`: a right answer is among those shown; `missed`: none is; `worst`: it comes last of all."""

    found: tuple[Answer, ...]
    missed: tuple[Answer, ...]
    worst: tuple[Answer, ...]


def ranks(task: Task, method: Method) -> NDArray[np.int64]:
    """(Q,) rank, from 1, of the first right answer; 0 for a query without one. Equal scores count against the method."""
    scores = method.scores(task)
    found = np.zeros(len(task.queries), np.int64)
    for start, stop in blocks(len(task.queries), len(task.gallery)):
        right, out = task.right(start, stop)
        got = _scores(scores(start, stop), out)
        best = np.where(right, got, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
        above = ((got >= best) & ~right & ~out).sum(axis=1)
        found[start:stop] = np.where(right.any(axis=1), above + 1, 0)
    return found


def answers(task: Task, method: Method, rows: Sequence[int] | NDArray[np.int64], *, shown: int = SHOWN) -> list[Answer]:
    """The nearest items of these queries, without what is out of their gallery."""
    part = task.take(np.asarray(rows, np.int64))
    first = ranks(part, method)
    scores = method.scores(part)
    found = []
    for at, query in enumerate(part.queries):
        right, out = part.right(at, at + 1)
        got = _scores(scores(at, at + 1), out)[0]
        best = [row for row in np.argsort(-got, kind="stable")[:shown] if np.isfinite(got[row])]
        hits = tuple(Hit(part.gallery[row], float(got[row]), bool(right[0, row])) for row in best)
        found.append(Answer(query, hits, int(first[at])))
    return found


def choose(task: Task, method: Method, *, seed: int, each: int = 2, shown: int = SHOWN) -> Chosen:
    """Up to `each` cases of a kind: found and missed ones drawn under `seed`, never picked; the worst by rank."""
    first = ranks(task, method)
    draw = np.random.default_rng(seed)
    last = np.argsort(-first, kind="stable")[:each]
    last = last[first[last] > shown]
    groups = [np.flatnonzero((first > 0) & (first <= shown)), np.setdiff1d(np.flatnonzero(first > shown), last)]
    drawn = [np.sort(draw.choice(rows, min(each, len(rows)), replace=False)) for rows in groups]
    return Chosen(*(tuple(answers(task, method, rows, shown=shown)) for rows in (*drawn, last)))


def _scores(got: NDArray[np.float32], out: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scores with -inf where a row is out of the gallery or the method gave no number."""
    return np.where(out | np.isnan(got), np.float32(-np.inf), got)
