"""Impressions in groups of one request: how a history is read once for many candidates.

I impressions, K candidates a group. A group is a row of impression numbers, -1 where it is not full.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: Batches whose groups are put in order of their histories' lengths together: padding shrinks, chance stays.
POOL = 16


def groups_of(request: Ints, rows: Ints, size: int, order: np.random.Generator | None = None) -> Ints:
    """(groups, K) int64: every row once, those of one request in as few groups as they need.

    Args:
        request: (I,) request of every impression.
        rows: the impressions wanted.
        size: K.
        order: draws which candidates of a request stand together; None: as they come.
    """
    if not len(rows):
        return np.zeros((0, size), np.int64)
    tie = np.arange(len(rows)) if order is None else order.permutation(len(rows))
    chosen = rows[np.lexsort((tie, request[rows]))]
    of = request[chosen]
    first = np.concatenate([[True], of[1:] != of[:-1]])
    start = np.flatnonzero(first)[np.cumsum(first) - 1]
    place = np.arange(len(chosen)) - start
    group = np.cumsum(place % size == 0) - 1
    made = np.full((int(group[-1]) + 1, size), -1, np.int64)
    made[group, place % size] = chosen
    return made


def batches(groups: Ints, lengths: Ints, count: int, order: np.random.Generator | None = None) -> Iterator[Ints]:
    """(G, K) groups a batch, G at most `count`.

    Args:
        groups: (groups, K).
        lengths: (groups,) behaviours of each group's history.
        count: groups a batch.
        order: shuffles groups and batches; groups of a like length meet in one batch. None: all in order of length.
    """
    if order is None:
        ranked = np.argsort(lengths, kind="stable")
        yield from (groups[ranked[at : at + count]] for at in range(0, len(groups), count))
        return
    shuffled = order.permutation(len(groups))
    made: list[Ints] = []
    for at in range(0, len(shuffled), POOL * count):
        pool = shuffled[at : at + POOL * count]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        made += [pool[low : low + count] for low in range(0, len(pool), count)]
    for number in order.permutation(len(made)):
        yield groups[made[number]]
