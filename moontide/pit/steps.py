"""What a versioned log says at a time: which row of an entity is valid, as a step function.

A row counts from a moment on (`eligible`, inclusive). Of the rows that count at t the highest by write order is valid, however
late it came; a valid tombstone means nothing is. So the steps of an entity are the running maximum of the order over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moontide.pit.spans import bisect

Ints = NDArray[np.int64]


class Steps:
    """Which of V rows is valid for an entity at a time.

    Args:
        arrays: ``offsets`` (E + 1,), ``times`` (S,) rising within an entity, ``rows`` (S,) int64, -1: none.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._offsets, self._times, self._rows = arrays["offsets"], arrays["times"], arrays["rows"]

    @classmethod
    def of(cls, entities: Ints, count: int, eligible: Ints, order: Sequence[NDArray[Any]], live: NDArray[np.bool_]) -> Steps:
        """The steps of a log.

        Args:
            entities: (V,) int64 in 0..count - 1.
            count: E.
            eligible: (V,) int64, from when on a row counts.
            order: columns (V,) of the write order, most significant first; rows equal in all of them count once, the first one.
            live: (V,) bool; False: a tombstone, or a row without a value.
        """
        by_time = _sorted(entities, eligible)
        entity, time = entities[by_time], eligible[by_time]
        starts = np.concatenate([np.ones(min(len(entity), 1), bool), entity[1:] != entity[:-1]])
        winner = _winners(by_time, starts, order)
        # Of several rows that count from one moment on, the last state is the one that is ever seen.
        last = np.concatenate([~(~starts[1:] & (time[1:] == time[:-1])), np.ones(min(len(entity), 1), bool)])
        rows = np.where(live[winner], winner, -1).astype(np.int64)[last]
        offsets = np.searchsorted(entity[last], np.arange(count + 1)).astype(np.int64)
        return cls({"offsets": offsets, "times": time[last], "rows": rows})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything it is made of, for `pit.arrays.save_arrays`."""
        return {"offsets": self._offsets, "times": self._times, "rows": self._rows}

    def at(self, entities: Ints, times: Ints) -> Ints:
        """(Q,) int64 row that is valid for each entity at each time; -1: none, or entity -1."""
        if not len(self._times):
            return np.full(len(entities), -1, np.int64)
        start = self._offsets[entities]
        stop = np.where(entities < 0, start, self._offsets[entities + 1])
        place = bisect(self._times, start, stop, times, right=True)
        return np.where(place > start, self._rows[np.maximum(place - 1, 0)], -1).astype(np.int64)


def _sorted(entities: Ints, eligible: Ints) -> Ints:
    """Rows by (entity, eligible); of equal ones, by row.

    A log lies in order of time but for what came late, so rows are put together by entity first, with the row number in the low
    bits of what is sorted, and only entities out of order are sorted by time: half the time of sorting by both.
    """
    bits = len(entities).bit_length()
    if not len(entities) or int(entities.max()) >> (63 - bits):
        return np.lexsort((eligible, entities)).astype(np.int64)
    packed = entities << bits
    packed |= np.arange(len(entities))
    packed.sort()
    by_time = packed & ((1 << bits) - 1)
    entity, time = packed >> bits, eligible[by_time]
    late = np.unique(entity[1:][(entity[1:] == entity[:-1]) & (time[1:] < time[:-1])])
    if len(late):
        places = np.flatnonzero(np.isin(entity, late))
        rows = by_time[places]
        by_time[places] = rows[np.lexsort((rows, eligible[rows], entities[rows]))]
    ordered: Ints = by_time
    return ordered


def _winners(by_time: Ints, starts: NDArray[np.bool_], order: Sequence[NDArray[Any]]) -> Ints:
    """(V,) for each row in time order: the highest row of its entity so far."""
    rising = np.ones(max(len(by_time) - 1, 0), bool)
    equal = rising.copy()
    higher = np.zeros(len(rising), bool)
    for column in order:
        values = column[by_time]
        higher |= equal & (values[1:] > values[:-1])
        equal &= values[1:] == values[:-1]
    rising = higher | starts[1:]
    if rising.all():
        return by_time
    # Only entities with a late or repeated row need their rows ranked.
    entity = np.cumsum(starts) - 1
    mixed = np.unique(entity[1:][~rising])
    chosen = np.flatnonzero(np.isin(entity, mixed))
    winner = by_time.copy()
    winner[chosen] = _running(by_time[chosen], entity[chosen], order)
    return winner


def _running(by_time: Ints, entity: Ints, order: Sequence[NDArray[Any]]) -> Ints:
    """`_winners` of some whole entities, by ranks: the running maximum, where an equal row replaces nothing."""
    columns = [column[by_time] for column in order]
    ranked = np.lexsort((by_time, *columns[::-1]))
    fresh = np.ones(len(ranked), bool)
    fresh[1:] = np.any([c[ranked][1:] != c[ranked][:-1] for c in columns], axis=0)
    rank = np.empty(len(ranked), np.int64)
    rank[ranked] = np.cumsum(fresh)
    best = np.maximum.accumulate(entity * (len(ranked) + 1) + rank)
    replaced = np.concatenate([np.ones(1, bool), best[1:] > best[:-1]])
    return by_time[np.maximum.accumulate(np.where(replaced, np.arange(len(best)), 0))]
