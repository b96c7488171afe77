"""What a versioned log says at a time: which row of an entity is valid, as a step function.

A row counts from a moment on (`eligible`, inclusive). Of the rows that count at t the highest by write order is valid, however
late it came; a valid tombstone means nothing is. So with an entity's rows in write order, each is reached at the earliest moment
that it or a higher one counts, and those moments rise: nothing need be sorted by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    def of(
        cls,
        entities: Ints,
        count: int,
        eligible: Ints,
        order: Sequence[NDArray[Any]],
        live: NDArray[np.bool_],
        *,
        threads: int = 1,
    ) -> Steps:
        """The steps of a log.

        Args:
            entities: (V,) int64 in 0..count - 1.
            count: E.
            eligible: (V,) int64, from when on a row counts.
            order: columns (V,) of the write order, most significant first; rows equal in all of them count once, the one that
                counts first.
            live: (V,) bool; False: a tombstone, or a row without a value.
            threads: how many share the work, each taking a range of entities.
        """
        bounds = np.arange(threads + 1) * count // threads

        def some(part: int) -> tuple[Ints, Ints, Ints]:
            rows = _within(entities, int(bounds[part]), int(bounds[part + 1]), count)
            return _steps(*_by_order(rows, entities, eligible, order), eligible)

        with ThreadPoolExecutor(threads) as pool:
            entity, times, rows = (_end_to_end(parts) for parts in zip(*pool.map(some, range(threads)), strict=True))
        offsets = np.searchsorted(entity, np.arange(count + 1)).astype(np.int64)
        return cls({"offsets": offsets, "times": times, "rows": rows if live.all() else np.where(live[rows], rows, -1)})

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


def _end_to_end(parts: Sequence[Ints]) -> Ints:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _within(entities: Ints, start: int, stop: int, count: int) -> Ints:
    """Rows whose entity is in ``start..stop - 1``, rising."""
    if stop - start == count:
        return np.arange(len(entities))
    return np.flatnonzero((entities >= start) & (entities < stop))


def _steps(rows: Ints, entity: Ints, eligible: Ints) -> tuple[Ints, Ints, Ints]:
    """Entity, time and row of each step, from rows by (entity, write order)."""
    until = _minimum_ahead(entity, eligible[rows])
    # A row that a higher one overtakes, from the moment it counts on, is never seen.
    seen = np.ones(len(entity), bool)
    seen[:-1] = (entity[1:] != entity[:-1]) | (until[1:] > until[:-1])
    return entity[seen], until[seen], rows[seen]


def _by_order(rows: Ints, entities: Ints, eligible: Ints, order: Sequence[NDArray[Any]]) -> tuple[Ints, Ints]:
    """Rows and their entities by (entity, write order), strictly: of equal rows the one that counts first, else the first one.

    A log lies in its write order but for a few rows, so rows are put together by entity first, with the row number in the low
    bits of what is sorted, and only entities out of order are sorted by it.

    Args:
        rows: of the log, rising; the ones that are wanted.
        entities, eligible, order: of the log.
    """
    bits = len(entities).bit_length()
    packed = entities[rows]
    if not len(rows) or int(packed.max()) >> (63 - bits):
        rows = rows[np.argsort(packed, kind="stable")]
        entity = entities[rows]
    else:
        packed <<= bits
        packed |= rows
        packed.sort()
        rows = packed & ((1 << bits) - 1)
        entity = packed
        entity >>= bits
    if bool((order[0][1:] > order[0][:-1]).all()):
        return rows, entity
    falling = (entity[1:] == entity[:-1]) & ~_rising(rows, order)
    if not falling.any():
        return rows, entity
    places = np.flatnonzero(np.isin(entity, np.unique(entity[1:][falling])))
    chosen = rows[places]
    columns = [column[chosen] for column in order]
    rows[places] = chosen[np.lexsort((chosen, eligible[chosen], *columns[::-1], entity[places]))]
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (entity[1:] != entity[:-1]) | _rising(rows, order)
    return rows[fresh], entity[fresh]


def _rising(rows: Ints, order: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """(V - 1,) whether each row is above the one before it, by the columns, most significant first."""
    higher, equal = np.zeros(max(len(rows) - 1, 0), bool), np.ones(max(len(rows) - 1, 0), bool)
    for column in order:
        if not equal.any():
            break
        values = column[rows]
        higher |= equal & (values[1:] > values[:-1])
        equal &= values[1:] == values[:-1]
    return higher


def _minimum_ahead(entity: Ints, values: Ints) -> Ints:
    """(V,) the smallest value from each row on to the last one of its entity; entities rise."""
    if not len(values):
        return values
    low = int(values.min())
    width = (int(values.max()) - low).bit_length()
    if int(entity[-1]).bit_length() + width > 63:
        known, ranks = np.unique(values, return_inverse=True)
        smallest: Ints = known[_minimum_ahead(entity, ranks.astype(np.int64))]
        return smallest
    # With the entity in the high bits one pass from the end serves all: it starts anew at every entity.
    packed = entity << width
    packed += values
    packed -= low
    backwards = packed[::-1]
    np.minimum.accumulate(backwards, out=backwards)
    packed &= (1 << width) - 1
    packed += low
    return packed
