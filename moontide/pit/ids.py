"""Ids as rows of a sorted list: strings are looked up once per distinct id of a batch, and only integers travel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Ids:
    """Distinct ids (ASCII, as `names.is_id` wants them) in order; row = place.

    Args:
        sorted_ids: (E,) ``S`` array, rising.
    """

    def __init__(self, sorted_ids: NDArray[Any]) -> None:
        self.array: NDArray[Any] = sorted_ids

    @classmethod
    def of(cls, columns: Iterable[pa.Array | pa.ChunkedArray]) -> Ids:
        """The distinct ids of string columns; null is none."""
        found = [pc.unique(column).cast(pa.string()) for column in columns]
        distinct = pc.unique(pa.chunked_array(found, pa.string())).drop_null()
        return cls(np.sort(_bytes(distinct)))

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        """(B,) row of each string; -1 for null and for an id that is not here."""
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
        words = self._rows(_bytes(coded.dictionary))
        # One more place for null, which comes last.
        places = pc.fill_null(coded.indices, len(words)).to_numpy(zero_copy_only=False)
        found: Ints = np.append(words, -1)[places].astype(np.int64)
        return found

    def strings(self, rows: Ints | slice = slice(None)) -> pa.Array:
        """The ids of rows as an Arrow string column."""
        chosen = np.ascontiguousarray(self.array[rows])
        lengths = np.char.str_len(chosen)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]).astype(np.int32)
        raw = chosen.view(np.uint8).reshape(len(chosen), -1) if len(chosen) else np.zeros((0, 1), np.uint8)
        packed = raw[np.arange(raw.shape[1]) < lengths[:, None]]
        buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(packed.tobytes())]
        return pa.Array.from_buffers(pa.string(), len(chosen), buffers)

    def _rows(self, words: NDArray[Any]) -> Ints:
        if not len(self.array) or not len(words):
            return np.full(len(words), -1, np.int64)
        # Of one width, or numpy would copy the whole list at every call.
        fits = np.char.str_len(words) <= self.array.itemsize
        wanted = words.astype(self.array.dtype)
        at = np.minimum(np.searchsorted(self.array, wanted), len(self.array) - 1)
        return np.where(fits & (self.array[at] == wanted), at, -1).astype(np.int64)


def _bytes(words: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    return np.array(words.cast(pa.binary()).to_pylist(), np.bytes_)
