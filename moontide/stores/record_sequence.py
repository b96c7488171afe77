"""The record of a user's sequence. Everything in it, its order included, follows from the merged behaviours alone, so that
writers which saw the same behaviours in any order leave the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names
from moontide.errors import Misconfigured, Poison
from moontide.order import KEY_BYTES, WriteOrder
from moontide.schemas import STRINGS
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.stores.record import HEAD, STORED, Layout, Records, heads_of
from moontide.stores.record_views import column
from moontide.views import ViewSpec

_BODY = "sequence"
_SIZE = struct.Struct("<I")
_TIMES = pa.list_(pa.int64())


class SequenceCodec:
    """Records that hold `BehaviourSequence.pack()`."""

    def __init__(self, view: ViewSpec) -> None:
        self._view = view
        self.layout = Layout(pa.schema([pa.field(_BODY, pa.binary())]))
        stamp = np.frombuffer(self.layout.blank, HEAD, 1).copy()
        stamp["flags"] = STORED
        self._stamp = stamp.tobytes()[KEY_BYTES:] + b"\0"
        self._start = KEY_BYTES + len(self._stamp) + _SIZE.size

    def behaviours(self, rows: pa.Table) -> list[list[Behaviour]]:
        """The behaviours of each row.

        Raises:
            Misconfigured: a column is missing or of another type.
            Poison: lists of a row differ in length, hold nulls, or an item id is none.
        """
        where = self._view.name
        items = column(rows, pa.field("item_ids", STRINGS), where=where)
        actions = column(rows, pa.field("actions", STRINGS), where=where)
        times = column(rows, pa.field("times", _TIMES), where=where)
        sizes = [pc.fill_null(pc.list_value_length(values), 0) for values in (items, actions, times)]
        if not (sizes[0].equals(sizes[1]) and sizes[0].equals(sizes[2])):
            raise Poison(f"view {where}: expected item_ids, actions and times of one length in each row, got lists that differ")
        flat = [values.flatten() for values in (items, actions, times)]
        if any(values.null_count for values in flat) or not names.valid_ids(flat[0]).all():
            raise Poison(f"view {where}: expected item ids of [A-Za-z0-9._:-]{{1,64}}, actions and times, got a null or other id")
        everything = list(map(Behaviour, flat[2].to_pylist(), flat[0].to_pylist(), flat[1].to_pylist()))
        ends = np.cumsum(sizes[0].to_numpy(zero_copy_only=False)).tolist()
        return [everything[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def merge(self, stored: bytes, behaviours: Iterable[Behaviour], *, length: int) -> bytes:
        """The record of what `stored` (may be empty) and `behaviours` are together; `stored` itself where nothing is new."""
        old = self._sequence(stored) if stored else BehaviourSequence()
        new = old.merge(behaviours, length=length)
        if stored and new == old:
            return stored
        body = new.pack()
        digest = new.version.to_bytes(8, "big", signed=True) + bytes(8)
        order = WriteOrder(0, new.last_time, new.last_time, digest).pack()
        return b"".join((order, self._stamp, _SIZE.pack(len(body)), body))

    def sequences(self, records: Sequence[bytes]) -> tuple[NDArray[Any], list[BehaviourSequence]]:
        """Heads (B,) and the sequence of each record, empty for a blank one."""
        heads = self.heads(records)
        digests = np.ascontiguousarray(heads["order"]["content_hash"][:, :8]).view(">i8").ravel().tolist()
        stored, empty = (heads["flags"] == STORED).tolist(), BehaviourSequence()
        return heads, [
            self._sequence(record, version) if has else empty
            for has, record, version in zip(stored, records, digests, strict=True)
        ]

    def unpack(self, records: Sequence[bytes], wanted: Sequence[str]) -> Records:
        """See `Codec.unpack`."""
        heads, sequences = self.sequences(records)
        columns: dict[str, pa.Array] = {}
        for name in wanted:
            if name == "item_ids":
                columns[name] = pa.array([s.item_ids for s in sequences], STRINGS)
            elif name == "actions":
                columns[name] = pa.array([[b.action for b in s.behaviours] for s in sequences], STRINGS)
            elif name == "times":
                columns[name] = pa.array([[b.time for b in s.behaviours] for s in sequences], _TIMES)
            elif name == "sequence_version":
                digests = np.ascontiguousarray(heads["order"]["content_hash"][:, :8])
                columns[name] = pa.array(digests.view(">i8").ravel().astype(np.int64))
        return Records(heads, columns)

    def heads(self, records: Sequence[bytes]) -> NDArray[Any]:
        """See `Codec.heads`."""
        heads = heads_of(records)
        if not (heads["tag"] == self.layout.tag).all():
            raise self._other()
        return heads

    def _sequence(self, record: bytes, version: int | None = None) -> BehaviourSequence:
        if record[KEY_BYTES : KEY_BYTES + len(self._stamp)] != self._stamp:
            raise self._other()
        body = memoryview(record)[self._start :]
        if record[self._start - _SIZE.size : self._start] != _SIZE.pack(len(body)):
            raise Misconfigured(
                f"view {self._view.name}: expected whole sequence records, got one of {len(record)} bytes; "
                "another program wrote it, or the store is damaged: load it again"
            )
        return BehaviourSequence.unpack(body, version=version)

    def _other(self) -> Misconfigured:
        return Misconfigured(
            f"view {self._view.name}: expected sequence records, got records of another kind; drop the view and load it again"
        )
