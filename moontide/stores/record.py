"""The packed record: a head that orders and identifies it, then the fields of one schema.

Bytes: order key (40, memcmp-comparable), magic, format, flags, tag of the layout, then one null bit per field, the fixed-width
fields, the sizes of the others, and the others back to back. Records without variable fields of one layout have one length, so a
batch of them decodes as one numpy array; the rest decodes through Arrow offsets. Nothing here loops over rows in Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.order import ORDER_DTYPE
from moontide.stores.record_fields import Field, Pieces, nulls_of

MAGIC: Final = b"Mt"
FORMAT: Final = 1
STORED: Final = 1
DELETED: Final = 2
HEAD: Final = np.dtype(
    [("order", ORDER_DTYPE), ("magic", "S2"), ("format", "u1"), ("flags", "u1"), ("pad", "V4"), ("tag", "<u8")]
)


def tag_of(identity: str) -> int:
    """64-bit name of a layout: records with different tags are never decoded as one another."""
    return int.from_bytes(hashlib.blake2b(f"{FORMAT}|{identity}".encode(), digest_size=8).digest(), "little")


def heads_of(records: Sequence[bytes]) -> NDArray[Any]:
    """(B,) of `HEAD`, whatever the layout.

    Raises:
        Misconfigured: one is no record of this format.
    """
    if min(map(len, records), default=HEAD.itemsize) < HEAD.itemsize:
        raise _foreign(min(records, key=len))
    heads = np.frombuffer(b"".join([r[: HEAD.itemsize] for r in records]), HEAD)
    wrong = np.flatnonzero((heads["magic"] != MAGIC) | (heads["format"] != FORMAT))
    if len(wrong):
        raise _foreign(records[int(wrong[0])])
    return heads


class TagMismatch(Exception):
    """A batch holds records of another layout; `tags` names the layout of each."""

    def __init__(self, tags: NDArray[np.uint64]) -> None:
        super().__init__("records of another layout")
        self.tags = tags


class Records:
    """A decoded batch: `heads` (B,) of `HEAD`, and one Arrow array per field."""

    def __init__(self, heads: NDArray[Any], columns: dict[str, pa.Array]) -> None:
        self.heads = heads
        self.columns = columns


class Layout:
    """How the fields of one schema lie in a record.

    Args:
        schema: fields of type bool, integer, float, time, fixed-size binary, string, binary, or a list of one of these.
        tag: stamped into every record and demanded of it; default: a hash of the schema.

    Raises:
        Misconfigured: a field of another type.
    """

    def __init__(self, schema: pa.Schema, *, tag: int | None = None) -> None:
        self.schema = schema
        self.tag = tag_of(str([(f.name, str(f.type)) for f in schema])) if tag is None else tag
        self._fields = [Field(f) for f in schema]
        slots: list[Any] = [("head", HEAD), ("nulls", "u1", ((len(self._fields) + 7) // 8,))]
        slots += [slot for field in self._fields for slot in field.slots]
        self.fixed: Final = np.dtype(slots)
        self.sections: Final = [size for field in self._fields for size in field.sections]
        empty = np.zeros(1, self.fixed)
        empty["nulls"] = 0xFF
        self._stamp(empty["head"], flags=np.zeros(1, np.uint8))
        self.blank: Final = empty.tobytes()

    def _stamp(self, heads: NDArray[Any], *, flags: NDArray[np.uint8]) -> None:
        heads["magic"], heads["format"], heads["tag"], heads["flags"] = MAGIC, FORMAT, self.tag, flags

    def encode(self, orders: NDArray[Any], deleted: NDArray[np.bool_], columns: dict[str, pa.Array]) -> list[bytes]:
        """Records of B rows; `orders` (B,) of `ORDER_DTYPE`, the columns of this schema's types, null in deleted rows."""
        rows = len(orders)
        fixed = np.zeros(rows, self.fixed)
        fixed["head"]["order"] = orders
        self._stamp(fixed["head"], flags=np.where(deleted, STORED | DELETED, STORED).astype(np.uint8))
        arrays = [(field, columns[field.name]) for field in self._fields]
        if arrays:
            nulls = np.stack([nulls_of(array) for _, array in arrays], axis=1)
            fixed["nulls"] = np.packbits(nulls, axis=1)
        sections = [section for field, array in arrays for section in field.write(array, fixed)]
        size = self.fixed.itemsize
        if not sections:
            return cast(list[bytes], fixed.view(f"V{size}").tolist())
        offsets = np.arange(rows + 1, dtype=np.int64) * size
        head = pa.Array.from_buffers(pa.large_binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(fixed)])
        joined = pc.binary_join_element_wise(head, *sections, pa.scalar(b"", pa.large_binary()))
        return cast(list[bytes], joined.to_pylist())

    def fixed_rows(self, records: Sequence[bytes]) -> NDArray[Any]:
        """(B,) of `fixed`: every record at once, where this layout has no variable fields.

        Raises:
            TagMismatch: a record of another layout.
            Misconfigured: bytes that are no record.
        """
        packed = b"".join(records)
        size = self.fixed.itemsize
        if len(packed) != size * len(records):
            raise self._mismatch(records)
        rows = np.frombuffer(packed, self.fixed)
        # One record of another length would shift all after it, so it shows here even where lengths happen to add up.
        if not (rows["head"]["tag"] == self.tag).all():
            raise self._mismatch(records)
        return rows

    def decode(self, records: Sequence[bytes], wanted: Sequence[str] | None = None) -> Records:
        """The wanted fields (default: all) of B records.

        Raises:
            TagMismatch: a record of another layout.
            Misconfigured: bytes that are no record, or one cut short.
        """
        if not self.sections:
            fixed, pieces = self.fixed_rows(records), None
        else:
            fixed, pieces = self._split(records)
        if not self._fields:
            return Records(fixed["head"], {})
        nulls = np.unpackbits(fixed["nulls"], axis=1, count=len(self._fields)).astype(bool)
        columns, section = {}, 1
        for n, field in enumerate(self._fields):
            if wanted is None or field.name in wanted:
                columns[field.name] = field.read(fixed, nulls[:, n], pieces, section)
            section += len(field.sections)
        return Records(fixed["head"], columns)

    def _mismatch(self, records: Sequence[bytes]) -> Exception:
        tags = heads_of(records)["tag"]
        if (tags == self.tag).all():
            return _foreign(min(records, key=lambda record: len(record) == len(self.blank)))
        return TagMismatch(tags)

    def _split(self, records: Sequence[bytes]) -> tuple[NDArray[Any], Pieces]:
        size, rows = self.fixed.itemsize, len(records)
        if min(map(len, records), default=size) < size:
            raise self._mismatch(records)
        fixed = np.frombuffer(b"".join([r[:size] for r in records]), self.fixed)
        if not (fixed["head"]["tag"] == self.tag).all():
            raise self._mismatch(records)
        lengths = np.empty((rows, len(self.sections) + 1), np.int64)
        lengths[:, 0] = size
        for n, (slot, width) in enumerate(self.sections, 1):
            lengths[:, n] = fixed[slot].astype(np.int64) * width
        actual = np.fromiter(map(len, records), np.int64, rows)
        wrong = np.flatnonzero(lengths.sum(axis=1) != actual)
        if len(wrong):
            raise _foreign(records[int(wrong[0])])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths.ravel())])
        return fixed, Pieces(b"".join(records), offsets, lengths.shape[1])


def _foreign(record: bytes) -> Misconfigured:
    return Misconfigured(
        f"online store: expected a record of format {FORMAT}, got {len(record)} bytes starting {record[40:44].hex()}; "
        "another program or version wrote this store: point MOONTIDE_HOME or MOONTIDE_REDIS_URL elsewhere, or load it anew"
    )
