"""How well a method answers a task: measures by query, their mean, and a bootstrap interval over groups.

Q queries, G gallery rows, b queries of one block, k the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.probe import NEIGHBOURS, votes_right
from encoders.evaluation.tasks import VOTES, Method, SameKey, Scores, Task, blocks
from encoders.metrics import average_precisions, best_first, hits_of
from moontide.errors import Misconfigured

SEED: Final = 7
DRAWS: Final = 1000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over queries, and the ends of its 95 % bootstrap interval; all in 0..1."""

    value: float
    low: float
    high: float


def run(task: Task, method: Method) -> dict[str, float]:
    """Means by measure; empty where no query has a right answer. Queries without one do not count."""
    return {name: float(values.mean()) for name, values in by_query(task, method).items() if len(values)}


def run_with_intervals(task: Task, method: Method, *, seed: int = SEED) -> dict[str, Figure]:
    """As `run`, with intervals."""
    groups = task.truth.groups[task.answerable()]
    return {name: figure(values, groups, seed=seed) for name, values in by_query(task, method).items() if len(values)}


def by_query(task: Task, method: Method) -> dict[str, NDArray[np.float64]]:
    """(A,) values by measure, of the A queries that have a right answer, in their order."""
    scores = method.scores(task)
    # Equal scores must not be won by the order of a file, in which neighbours are often alike.
    order = np.random.default_rng(SEED).permutation(len(task.gallery))
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in task.measures}
    for start, stop in blocks(len(task.queries), len(task.gallery)):
        for name, values in _block(task, scores, order, start, stop).items():
            found[name].append(values)
    return {name: np.concatenate([np.zeros(0), *parts]) for name, parts in found.items()}


def figure(values: NDArray[np.float64], groups: NDArray[np.int64], *, seed: int = SEED) -> Figure:
    """Mean of (A,) values, and the interval from drawing their groups with replacement. One group: no width is known, NaN."""
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return Figure(float(values.mean()), float("nan"), float("nan"))
    sums = np.bincount(index, weights=values)
    counts = np.bincount(index).astype(np.float64)
    draw = np.random.default_rng(seed)
    means = []
    for start, stop in blocks(DRAWS, len(names)):
        chosen = draw.integers(len(names), size=(stop - start, len(names)))
        means.append(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Figure(float(values.mean()), float(low), float(high))


def _block(task: Task, scores: Scores, order: NDArray[np.int64], start: int, stop: int) -> Mapping[str, NDArray[np.float64]]:
    relevant, out = task.right(start, stop)
    asked = relevant.any(axis=1)
    if not asked.any():
        return {name: np.zeros(0) for name in task.measures}
    got = np.asarray(scores(start, stop), np.float32)
    if got.shape != relevant.shape:
        raise Misconfigured(f"{task.name}: expected scores of shape {relevant.shape}, got {got.shape}")
    got = np.where(out | np.isnan(got), -np.inf, got)[asked][:, order]
    ranked = best_first(got, got.shape[1] if "map" in task.measures else _longest(task))
    near = np.take_along_axis(got, ranked, axis=1)
    # A row without a score is not found, wherever the sort has put it.
    hits = hits_of(ranked, relevant[asked][:, order]) & np.isfinite(near)
    values = {name: _of_hits(name, task.name, hits, relevant[asked].sum(axis=1)) for name in task.measures if name not in VOTES}
    if "accuracy" in task.measures:
        rows = order[ranked[:, :NEIGHBOURS]]
        values["accuracy"] = votes_right(rows, near[:, :NEIGHBOURS], _values(task), np.flatnonzero(asked) + start)
    return values


def _longest(task: Task) -> int:
    return max((int(name.rpartition("_")[2]) for name in task.measures if name[-1].isdigit()), default=NEIGHBOURS)


def _of_hits(name: str, task: str, hits: NDArray[np.bool_], relevant: NDArray[np.int64]) -> NDArray[np.float64]:
    if name == "map":
        return average_precisions(hits, relevant)
    kind, _, k = name.rpartition("_at_")
    if kind == "recall":
        return np.asarray(hits[:, : int(k)].any(axis=1), np.float64)
    if kind == "precision":
        return np.asarray(hits[:, : int(k)].mean(axis=1), np.float64)
    raise Misconfigured(f"{task}: expected recall_at_K, precision_at_K, map or accuracy, got {name!r}")


def _values(task: Task) -> SameKey:
    if not isinstance(task.truth.relevant, SameKey):
        raise Misconfigured(f"{task.name}: expected values to vote on (SameKey), got {type(task.truth.relevant).__name__}")
    return task.truth.relevant
