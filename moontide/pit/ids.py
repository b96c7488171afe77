"""Ids as rows of a sorted list: strings are looked up once per distinct id of a batch, and only integers travel."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.row_index import LIBRARY, Library, NativeRows

Ints = NDArray[np.int64]
#: A hash table of all ids pays for a column this many times shorter; a shorter one is looked up by bisection.
_FEWER: Final = 4


class Ids:
    """Distinct ids (ASCII, as `names.is_id` wants them) in order; row = place.

    Args:
        sorted_ids: (E,) ``S`` array, rising.
    """

    def __init__(self, sorted_ids: NDArray[Any]) -> None:
        self.array: NDArray[Any] = sorted_ids
        self._words: pa.Array | None = None
        self._index: NativeRows | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, columns: Iterable[pa.Array | pa.ChunkedArray]) -> Ids:
        """The distinct ids of string columns; null is none."""
        found = [pc.unique(column).cast(pa.string()) for column in columns]
        distinct = (found[0] if len(found) == 1 else pc.unique(pa.chunked_array(found, pa.string()))).drop_null()
        return cls(np.sort(_bytes(distinct)))

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        """(B,) row of each string; -1 for null and for an id that is not here."""
        if pa.types.is_string(column.type) and self._long(column):
            return self._rows(column)
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
        words = self._rows(coded.dictionary)
        # One more place for null, which comes last.
        return np.append(words, -1)[_int64(coded.indices, absent=len(words))]

    def strings(self, rows: Ints | slice = slice(None)) -> pa.Array:
        """The ids of rows as an Arrow string column."""
        chosen = np.ascontiguousarray(self.array[rows])
        lengths = np.char.str_len(chosen)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]).astype(np.int32)
        raw = chosen.view(np.uint8).reshape(len(chosen), -1) if len(chosen) else np.zeros((0, 1), np.uint8)
        packed = raw[np.arange(raw.shape[1]) < lengths[:, None]]
        buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(packed.tobytes())]
        return pa.Array.from_buffers(pa.string(), len(chosen), buffers)

    def _long(self, column: pa.Array | pa.ChunkedArray) -> bool:
        # An Arrow string array of more would not fit its 32-bit offsets.
        return len(column) * _FEWER > len(self.array) and self.array.nbytes < 1 << 31

    def _rows(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        if not len(self.array) or not len(column):
            return np.full(len(column), -1, np.int64)
        if self._long(column) and LIBRARY is not None:
            return self._found(column, LIBRARY)
        if self._long(column):
            self._words = self.strings() if self._words is None else self._words
            return _int64(pc.index_in(column.cast(pa.string()), self._words), absent=-1)
        words = _bytes(column)
        # Of one width, or numpy would copy the whole list at every call.
        fits = np.char.str_len(words) <= self.array.itemsize
        wanted = words.astype(self.array.dtype)
        at = np.minimum(np.searchsorted(self.array, wanted), len(self.array) - 1)
        return np.where(fits & (self.array[at] == wanted), at, -1).astype(np.int64)

    def _found(self, column: pa.Array | pa.ChunkedArray, library: Library) -> Ints:
        """The same by hash and in machine code: a third of the time of Arrow's ``index_in``."""
        with self._lock:
            if self._index is None:
                self._index = NativeRows(library, self.array, os.urandom(16))
                self._index.add(len(self.array))
        index = self._index
        parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return np.concatenate([_places(index, part) for part in parts])


def _places(index: NativeRows, column: pa.Array) -> Ints:
    words = column.cast(pa.large_string())
    offsets = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    text = words.buffers()[2]
    found = index.find_at(b"" if text is None else text.address, offsets[:-1], offsets[1:])
    if words.null_count:
        found[words.is_null().to_numpy(zero_copy_only=False)] = -1
    return found


def _int64(places: pa.Array | pa.ChunkedArray, *, absent: int) -> Ints:
    filled = pc.fill_null(places, absent) if places.null_count else places
    found: Ints = filled.to_numpy().astype(np.int64)
    return found


def _bytes(words: pa.Array) -> NDArray[Any]:
    """(B,) ``S`` array, as wide as the longest."""
    column = words.cast(pa.large_binary())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    width = max(int(lengths.max(initial=0)), 1)
    made = np.zeros((len(column), width), np.uint8)
    raw = column.buffers()[2]
    if raw is not None and len(column):
        made[np.arange(width) < lengths[:, None]] = np.frombuffer(raw, np.uint8)[offsets[0] : offsets[-1]]
    return made.view(f"S{width}")[:, 0]
