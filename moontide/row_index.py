"""From ids to rows: in machine code where it was built (``native/rows.c``), else a dictionary (B ids).

Keys are bytes of one width, NUL-padded, each once, none ending in NUL. A row keeps its key for ever; rows are only ever added.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from moontide.native import address, functions, library_path
from moontide.packed_ids import PackedIds

_log = logging.getLogger(__name__)

ABI: Final = 1
_LEAST_SLOTS: Final = 1 << 10
_ABSENT: Final = -1

Rows = NDArray[np.int64]
#: Ids in either form.
Ids = Sequence[str] | PackedIds


class RowIndex(Protocol):
    """Which row holds an id. One thread adds, any number look up meanwhile.

    Attributes:
        rows: how many are in it, to whoever looks up from now on. A look-up may find some of those that are being added, too:
            who needs all of a batch to be of one moment takes rows from here on as not found.
    """

    rows: int

    def add(self, last: int) -> None:
        """Take in the keys of rows up to `last`, exclusive."""

    def find(self, ids: Ids) -> Rows:
        """(B,) int64 the row of each, -1 where it has none."""


class DictionaryRows:
    """`RowIndex` in a dictionary."""

    def __init__(self, keys: NDArray[np.bytes_]) -> None:
        self._keys = keys
        self._places: dict[str, int] = {}
        self.rows = 0

    def add(self, last: int) -> None:
        """See `RowIndex.add`."""
        self._places.update((key, self.rows + n) for n, key in enumerate(texts(self._keys[self.rows : last])))
        self.rows = last

    def find(self, ids: Ids) -> Rows:
        """See `RowIndex.find`."""
        return np.fromiter(map(self._places.get, strings(ids), repeat(_ABSENT)), np.int64, len(ids))


class Library:
    """The loaded machine code.

    Args:
        path: of the shared object.

    Raises:
        OSError: it does not load, lacks a function, or has another ABI number than `ABI`.
    """

    def __init__(self, path: Path) -> None:
        self.add, self.find = functions(path, "moontide_rows_", ("add", "find"), abi=ABI)
        pointer, long, mask = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
        self.add.argtypes = (pointer, mask, pointer, long, long, long, pointer)
        self.find.argtypes = (pointer, mask, pointer, long, pointer, pointer, pointer, long, pointer, pointer)
        self.add.restype = self.find.restype = None


class NativeRows:
    """`RowIndex` in machine code: 16 to 32 bytes an id, and half as much again for a moment when it grows.

    Args:
        library: the machine code.
        keys: (capacity,) ``S`` array, contiguous.
        seed: 16 random bytes, so that nobody can choose ids that are slow to look up.
    """

    def __init__(self, library: Library, keys: NDArray[np.bytes_], seed: bytes) -> None:
        self._library = library
        self._keys = keys
        self._seed = np.frombuffer(seed, np.uint64, 2).copy()
        self._slots = np.zeros(_LEAST_SLOTS, np.uint64)
        self.rows = 0

    def add(self, last: int) -> None:
        """See `RowIndex.add`. Who looks up meanwhile may miss the new ones, or, while it grows, sees it as it was."""
        slots, first = self._slots, self.rows
        if 2 * last > len(slots):
            slots, first = np.zeros(1 << (2 * last - 1).bit_length(), np.uint64), 0
        self._library.add(
            address(slots), len(slots) - 1, address(self._keys), self._keys.itemsize, first, last, address(self._seed)
        )
        self._slots, self.rows = slots, last

    def find(self, ids: Ids) -> Rows:
        """See `RowIndex.find`."""
        packed = ids if isinstance(ids, PackedIds) else PackedIds.of(ids)
        return self.find_at(packed.text, packed.starts, packed.stops)

    def find_at(self, text: bytes | int, starts: Rows, stops: Rows) -> Rows:
        """`find` of ids in a text, or in memory at an address that is kept while this runs: see `PackedIds`."""
        slots, found = self._slots, np.empty(len(starts), np.int64)
        starts, stops = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(stops, np.int64)
        self._library.find(
            address(slots), len(slots) - 1, address(self._keys), self._keys.itemsize, text, address(starts), address(stops),
            len(starts), address(self._seed), address(found),
        )  # fmt: skip
        return found


def rows_over(keys: NDArray[np.bytes_]) -> RowIndex:
    """An empty index over `keys`, in machine code where that was built, seeded by the operating system."""
    return DictionaryRows(keys) if LIBRARY is None else NativeRows(LIBRARY, keys, os.urandom(16))


def loaded(path: Path | None) -> Library | None:
    """The library at `path`; None where there is none, or, with a warning in the log, none that fits."""
    try:
        return None if path is None else Library(path)
    except OSError as error:
        _log.warning("ids are looked up in a dictionary: %s", error)
        return None


def strings(ids: Ids) -> Sequence[str]:
    """`ids` as Python strings."""
    return ids.strings() if isinstance(ids, PackedIds) else ids


def picked(parts: Iterable[Ids], rows: Rows) -> list[str]:
    """The ids of some rows of several batches end to end; `rows` rise."""
    found: list[str] = []
    before = 0
    for part in parts:
        here = (rows[(rows >= before) & (rows < before + len(part))] - before).tolist()
        found += part.picked(here) if isinstance(part, PackedIds) else [part[row] for row in here]
        before += len(part)
    return found


def texts(keys: NDArray[np.bytes_]) -> list[str]:
    """The ids of keys."""
    return [key.decode("ascii") for key in keys.tolist()]


LIBRARY: Final = loaded(library_path("_rows"))

__all__ = [
    "LIBRARY",
    "DictionaryRows",
    "Ids",
    "Library",
    "NativeRows",
    "RowIndex",
    "loaded",
    "picked",
    "rows_over",
    "strings",
    "texts",
]
