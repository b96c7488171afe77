"""Counting and slicing of timed events, strictly before a moment: the one place that decides what was known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moontide.pit.spans import bisect

Ints = NDArray[np.int64]


class Timeline:
    """Events of entities, sorted by (entity, time, value); asked for what lies strictly before a time.

    Args:
        entities: (P,) int64.
        times: (P,) int64, any unit.
        values: (P,) int64, what happened; orders events of one time. None: only times are kept.

    Attributes:
        values: (P,) in that order, or none at all.
        times: (P,) in that order.
    """

    def __init__(self, entities: Ints, times: Ints, values: Ints | None = None) -> None:
        order = np.lexsort((times, entities) if values is None else (values, times, entities))
        self.values: Ints = np.zeros(0, np.int64) if values is None else values[order]
        self.times: Ints = times[order]
        self._entities, counts = np.unique(entities, return_counts=True)
        self._offsets: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Timeline:
        """Inverse of `arrays`; nothing is copied."""
        made = cls.__new__(cls)
        made.values, made.times = arrays["values"], arrays["times"]
        made._entities, made._offsets = arrays["entities"], arrays["offsets"]
        return made

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything it is made of, for `pit.arrays.save_arrays`."""
        return {"values": self.values, "times": self.times, "entities": self._entities, "offsets": self._offsets}

    def first(self, entities: Ints) -> Ints:
        """(Q,) index into `values` of each entity's first event, or of where it would be."""
        return self._offsets[np.searchsorted(self._entities, entities)]

    def before(self, entities: Ints, times: Ints) -> Ints:
        """(Q,) index into `values` one past the entity's last event strictly before the time."""
        return self._between(entities, times)[1]

    def count(self, entities: Ints, times: Ints, *, within: int | None = None) -> Ints:
        """(Q,) events of the entity in ``[time - within, time)``; without `within` all before the time."""
        start, stop = self._between(entities, times)
        return stop - (start if within is None else self.before(entities, times - within))

    def since_first(self, entities: Ints, times: Ints) -> Ints:
        """(Q,) time since the entity's first event; 0 where it has none strictly before."""
        start, stop = self._between(entities, times)
        if not len(self.times):
            return np.zeros(len(entities), np.int64)
        return np.where(stop > start, times - self.times[np.minimum(start, len(self.times) - 1)], 0)

    def _between(self, entities: Ints, times: Ints) -> tuple[Ints, Ints]:
        place = np.searchsorted(self._entities, entities)
        there = self._entities[np.minimum(place, len(self._entities) - 1)] == entities if len(self._entities) else False
        start = self._offsets[place]
        stop = np.where(there, self._offsets[np.minimum(place + 1, len(self._offsets) - 1)], start)
        return start, bisect(self.times, start, stop, times, right=False)
