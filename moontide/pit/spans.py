"""Slices of one long array, many at a time: S spans ``[start, stop)``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def indices(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Every index of the spans end to end, and (S + 1,) where each span begins in that."""
    sizes = stop - start
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return np.repeat(start - offsets[:-1], sizes) + np.arange(offsets[-1]), offsets


def bisect(values: NDArray[Any], start: Ints, stop: Ints, wanted: NDArray[Any], *, right: bool) -> Ints:
    """(S,) where `wanted` would be inserted in each span, whose values rise: after equal ones if `right`, else before them.

    Binary search in all spans at once. Most spans end before what is wanted, so the last value is looked at first.
    """
    low, high = start.astype(np.int64), stop.astype(np.int64)
    if not len(values):
        return low
    last = values[np.maximum(high - 1, 0)]
    beyond = (last <= wanted) if right else (last < wanted)
    open_spans = np.flatnonzero((low < high) & ~beyond)
    low = np.where(low < high, np.where(beyond, high, low), low)
    if not len(open_spans):
        return low
    left, behind, target = low[open_spans], high[open_spans] - 1, wanted[open_spans]
    for _ in range(int((behind - left).max()).bit_length()):
        middle = (left + behind) >> 1
        found = values[middle]
        later = (found <= target) if right else (found < target)
        searching = left < behind
        left = np.where(searching & later, middle + 1, left)
        behind = np.where(searching & ~later, middle, behind)
    low[open_spans] = left
    return low
