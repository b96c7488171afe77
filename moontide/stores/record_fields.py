"""The fields of a packed record: Arrow columns to bytes and back without a Python loop over rows (shape: B rows)."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.errors import Misconfigured, Poison


class Pieces:
    """The sections of a batch as one Arrow array over the joined records: section k of row i is element ``i * count + k``."""

    def __init__(self, packed: bytes, offsets: NDArray[np.int64], count: int) -> None:
        self._count = count
        self._rows = (len(offsets) - 1) // count
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
        self._all = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)

    def take(self, section: int) -> tuple[NDArray[np.int64], pa.Buffer]:
        """Offsets (B + 1,) and bytes of one section of every row."""
        picked = self._all.take(pa.array(np.arange(self._rows, dtype=np.int64) * self._count + section))
        _, offsets, data = picked.buffers()
        return np.frombuffer(offsets, np.int64, self._rows + 1), data if data is not None else pa.py_buffer(b"")


class Field:
    """One field: its fixed slots, its sections, and the way in and out of both."""

    def __init__(self, field: pa.Field) -> None:
        self.name: str = field.name
        self.type: pa.DataType = field.type
        self.plain = _plain(field.type, self.name)
        value, size = f"f:{self.name}", f"n:{self.name}"
        self.width = 0
        self.slots: list[Any]
        self.sections: list[tuple[str, int]]
        if pa.types.is_list(self.plain):
            self.inner = self.plain.value_type
            if _is_bytes(self.inner):
                self.slots = [(size, "<u4"), (value, "<u4")]
                self.sections = [(size, 4), (value, 1)]
            else:
                self.width = _width(self.inner)
                self.slots, self.sections = [(size, "<u4")], [(size, self.width)]
        elif _is_bytes(self.plain):
            self.slots, self.sections = [(size, "<u4")], [(size, 1)]
        else:
            self.width = _width(self.plain)
            self.slots, self.sections = [(value, f"V{self.width}")], []

    def write(self, array: pa.Array, fixed: NDArray[Any]) -> list[pa.Array]:
        """Fill this field's slots; its sections, one large_binary array each."""
        array = array.cast(self.plain) if array.type != self.plain else array
        value, size = f"f:{self.name}", f"n:{self.name}"
        if not self.sections:
            fixed[value] = _words(array, self.width)
            return []
        array = _without_nulls(array)
        if _is_bytes(self.plain):
            offsets, data = _bytes_of(array)
            fixed[size] = np.diff(offsets)
            return [_binary(offsets, data)]
        inner = array.values
        starts: NDArray[np.int64] = np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array) + 1].astype(np.int64)
        if inner.slice(starts[0], starts[-1] - starts[0]).null_count:
            raise Poison(f"field {self.name}: expected a list without nulls, got a null element; write an empty list or null")
        fixed[size] = np.diff(starts)
        if not _is_bytes(self.inner):
            return [_binary(starts * np.int64(self.width), pa.py_buffer(np.ascontiguousarray(_words(inner, self.width))))]
        offsets, data = _bytes_of(inner)
        fixed[value] = np.diff(offsets[starts])
        return [_binary(starts * np.int64(4), pa.py_buffer(np.diff(offsets).astype("<u4"))), _binary(offsets[starts], data)]

    def read(self, fixed: NDArray[Any], nulls: NDArray[np.bool_], pieces: Pieces | None, section: int) -> pa.Array:
        """The field of every row, of this field's type."""
        rows, mask = len(fixed), pa.py_buffer(np.packbits(~nulls, bitorder="little"))
        if pieces is None or not self.sections:
            words = np.ascontiguousarray(fixed[f"f:{self.name}"])
            return _restore(_values(self.plain, words, mask), self.type)
        offsets, data = pieces.take(section)
        if _is_bytes(self.plain):
            return _restore(_array(self.plain, rows, [mask, _int32(offsets), data]), self.type)
        if _is_bytes(self.inner):
            lengths = np.frombuffer(data, "<u4", offsets[-1] // 4)
            ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
            inner = _array(self.inner, len(lengths), [None, _int32(ends), pieces.take(section + 1)[1]])
            offsets = offsets // 4
        else:
            words = np.frombuffer(data, f"V{self.width}", offsets[-1] // self.width)
            inner, offsets = _values(self.inner, words, None), offsets // self.width
        lists = pa.Array.from_buffers(self.plain, rows, [mask, _int32(offsets)], children=[inner])
        return _restore(lists, self.type)


def _plain(kind: pa.DataType, name: str) -> pa.DataType:
    """The type a field is laid out as: large, view and dictionary variants become the simple ones."""
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type, name)
    if types.is_large_string(kind) or types.is_string_view(kind) or types.is_string(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_binary(kind):
        return pa.binary()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _plain(kind.value_type, name)
        if not types.is_list(inner):
            return pa.list_(inner)
    elif types.is_fixed_size_binary(kind) or types.is_primitive(kind):
        return kind
    raise Misconfigured(
        f"field {name}: expected bool, integer, float, time, string, binary or a list of one, got {kind}; serialise it to binary"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _width(kind: pa.DataType) -> int:
    return int(kind.byte_width) if pa.types.is_fixed_size_binary(kind) else max(kind.bit_width // 8, 1)


def nulls_of(array: pa.Array) -> NDArray[np.bool_]:
    """(B,) where the array is null."""
    return cast(NDArray[np.bool_], array.is_null().to_numpy(zero_copy_only=False))


def _without_nulls(array: pa.Array) -> pa.Array:
    """The same strings or lists, empty in place of null: a null may have bytes behind it, which are not to be stored."""
    if not array.null_count:
        return array
    if pa.types.is_list(array.type):
        return pc.if_else(array.is_valid(), array, pa.scalar([], array.type))
    return pc.fill_null(array, "" if pa.types.is_string(array.type) else b"")


def _words(array: pa.Array, width: int) -> NDArray[Any]:
    """(B,) of ``V<width>``: the values' own bytes, zero where null; a bool is one byte."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    words = data[array.offset * width : (array.offset + len(array)) * width].view(f"V{width}")
    if array.null_count:
        words = words.copy()
        words[nulls_of(array)] = np.void(bytes(width))
    return words


def _values(kind: pa.DataType, words: NDArray[Any], mask: pa.Buffer | None) -> pa.Array:
    if pa.types.is_boolean(kind):
        return pa.Array.from_buffers(pa.uint8(), len(words), [mask, pa.py_buffer(words)]).cast(pa.bool_())
    return _array(kind, len(words), [mask, pa.py_buffer(words)])


def _array(kind: pa.DataType, rows: int, buffers: list[pa.Buffer | None]) -> pa.Array:
    return pa.Array.from_buffers(kind, rows, buffers)


def _restore(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def _bytes_of(array: pa.Array) -> tuple[NDArray[np.int64], pa.Buffer]:
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1] if offsets else np.zeros(1, np.int32)
    return ends.astype(np.int64), data if data is not None else pa.py_buffer(b"")


def _binary(offsets: NDArray[np.int64], data: pa.Buffer) -> pa.Array:
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), data])


def _int32(offsets: NDArray[np.int64]) -> pa.Buffer:
    return pa.py_buffer(offsets.astype(np.int32))
