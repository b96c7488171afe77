"""Counting and slicing of timed events, strictly before a moment: the one place that decides what was known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Timeline:
    """Events of entities, sorted by (entity, time, value); asked for what lies strictly before a time.

    Args:
        entities: (P,) int64, 0 or more.
        times: (P,) int64, any unit.
        values: (P,) int64, what happened; orders events of one time.
    """

    def __init__(self, entities: Ints, times: Ints, values: Ints) -> None:
        order = np.lexsort((values, times, entities))
        self.values: Ints = values[order]
        self._times = np.unique(times)
        self._keys = entities[order] * (len(self._times) + 1) + np.searchsorted(self._times, times[order])

    def first(self, entities: Ints) -> Ints:
        """(Q,) index into `values` of each entity's first event, or of where it would be."""
        return np.searchsorted(self._keys, entities * (len(self._times) + 1)).astype(np.int64)

    def before(self, entities: Ints, times: Ints) -> Ints:
        """(Q,) index into `values` one past the entity's last event strictly before the time."""
        ranks = np.searchsorted(self._times, times, side="left")
        return np.searchsorted(self._keys, entities * (len(self._times) + 1) + ranks).astype(np.int64)

    def count(self, entities: Ints, times: Ints, *, within: int | None = None) -> Ints:
        """(Q,) events of the entity in ``[time - within, time)``; without `within` all before the time."""
        start = self.first(entities) if within is None else self.before(entities, times - within)
        return self.before(entities, times) - start
