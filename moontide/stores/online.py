"""The online store: packed records over a key-value engine. What is current is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names
from moontide.embeddings import Embeddings
from moontide.errors import Poison
from moontide.order import Outcome, unbiased
from moontide.schemas import TIMESTAMP
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import DirtyMark, EntityId, Heads, Matrix, Status, WriteCounts
from moontide.stores.codecs import Codecs
from moontide.stores.kv import Clock, KeyValue, Outcomes
from moontide.stores.record import DELETED, STORED, Records
from moontide.stores.record_embedding import EmbeddingCodec
from moontide.stores.record_sequence import SequenceCodec
from moontide.stores.record_views import (
    entity_columns,
    entity_of,
    head_column,
    keys_of,
    lookups,
    orders,
)
from moontide.views import ViewKind, ViewSpec


class PackedOnlineStore:
    """`OnlineStore` over a `KeyValue` engine.

    Args:
        kv: the engine; closed with this store.
        project: first part of every key; projects do not see each other.
        clock: microseconds since the epoch; decides what has expired.
        sequence_length: behaviours kept per user (L); a table keeps the L of its first writer, and refuses another.
    """

    def __init__(self, kv: KeyValue, *, project: str, clock: Clock, sequence_length: int) -> None:
        self._kv = kv
        self._clock = clock
        self._length = sequence_length
        self._codecs = Codecs(kv, project, sequence_length)

    def write_rows(self, view: ViewSpec, rows: pa.Table) -> WriteCounts:
        """See `OnlineStore.write_rows`.

        `codes` and `scale` make the vector where they are given, else `embedding` is quantised once. `deleted`, ``view.created``,
        `content_hash`, `content_known_at`, `inv_norm` (recomputed), `space` and `sequence_version` (recomputed) may be left out.
        A sequence record's times and version follow from its behaviours.
        """
        codec = self._codecs.of(view)
        if isinstance(codec, SequenceCodec):
            return _counts(self._merge(view, codec, rows))
        keys = keys_of(view, rows)
        order, deleted = orders(view, rows)
        self._require_past(view, unbiased(order["event_timestamp"]), names.EVENT_TIMESTAMP)
        records = codec.pack(rows, order, deleted)
        self._codecs.admit(view, codec, len(keys))
        return _counts(self._kv.put(self._codecs.table(view), keys, records, mark=view.kind is ViewKind.EMBEDDING))

    def read_embeddings(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """See `OnlineStore.read_embeddings`. A Matryoshka prefix is cut from its parent's vectors."""
        view, codec = self._codecs.of_space(space)
        records = self._kv.get(self._codecs.table(view), list(map(str.encode, ids)), codec.layout.blank)
        found = codec.vectors(records)[1].with_ids(ids)
        return found.prefix(space.dim) if space.prefix_of else found

    def read_columns(self, view: ViewSpec, ids: Sequence[EntityId], fields: Sequence[str]) -> pa.Table:
        """See `OnlineStore.read_columns`; `status` is int8 of `Status`, `event_timestamp` null where absent."""
        wanted = view.require_fields(list(fields))
        records, status = self._read(view, ids, fields)
        there, absent = pa.array(status == Status.PRESENT), pa.array(status == Status.ABSENT)
        columns = entity_columns(view, ids)
        for field in wanted:
            values = _values(view, field.name, records)
            columns[field.name] = pc.if_else(there, values, pa.scalar(None, values.type))
        event = head_column(view, names.EVENT_TIMESTAMP, records.heads)
        columns[names.EVENT_TIMESTAMP] = pc.if_else(absent, pa.scalar(None, TIMESTAMP), event)
        columns["status"] = pa.array(status)
        return pa.table(columns)

    def read_matrix(self, view: ViewSpec, ids: Sequence[EntityId]) -> Matrix:
        """See `OnlineStore.read_matrix`.

        Columns: for an embedding view the D floats; for others one per bool, integer or float field in view order, `deleted` and
        `source_version` of a fenced view excepted. A null is NaN.
        """
        codec = self._codecs.of(view)
        if isinstance(codec, EmbeddingCodec):
            heads, vectors = codec.vectors(self._fetch(view, ids))
            values = vectors.to_float()
            status = self._status(view, heads)
        else:
            fields = _numbers(view)
            records, status = self._read(view, ids, fields)
            heads = records.heads
            values = np.empty((len(ids), len(fields)), np.float32)
            for n, name in enumerate(fields):
                values[:, n] = records.columns[name].cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        values[status != Status.PRESENT] = np.nan
        return Matrix(values, status, _times(heads, "event_timestamp"))

    def read_sequences(self, view: ViewSpec, user_ids: Sequence[str]) -> list[BehaviourSequence]:
        """See `OnlineStore.read_sequences`; an expired one is empty."""
        heads, sequences = self._codecs.of_sequence(view).sequences(self._fetch(view, user_ids))
        if view.ttl is None:
            return sequences
        live = self._status(view, heads) == Status.PRESENT
        return [s if there else BehaviourSequence() for s, there in zip(sequences, live.tolist(), strict=True)]

    def read_records(self, view: ViewSpec, ids: Sequence[EntityId]) -> pa.Table:
        """See `OnlineStore.read_records`. A tombstone's values are null, or zero in an embedding view."""
        stored = [(i, r) for i, r in zip(ids, self._kv.get(self._codecs.table(view), lookups(view, ids), b""), strict=True) if r]
        found = [i for i, _ in stored]
        records = self._codecs.of(view).unpack([r for _, r in stored], view.table.names)
        columns = entity_columns(view, found)
        columns |= {f.name: _values(view, f.name, records) for f in view.table if f.name not in columns}
        return pa.table([columns[f.name].cast(f.type) for f in view.table], schema=view.table)

    def heads(self, view: ViewSpec, ids: Sequence[EntityId]) -> Heads:
        """See `OnlineStore.heads`. A sequence's `content_hash` starts with its version."""
        return self._heads(view, self._codecs.of(view).heads(self._fetch(view, ids)))

    def read_current(self, space: EmbeddingSpace, ids: Sequence[str]) -> tuple[Embeddings, Heads]:
        """See `OnlineStore.read_current`."""
        view, codec = self._codecs.of_space(space)
        heads, found = codec.vectors(self._fetch(view, ids))
        found = found.with_ids(ids)
        return (found.prefix(space.dim) if space.prefix_of else found), self._heads(view, heads)

    def dirty(self, space: EmbeddingSpace, limit: int) -> list[DirtyMark]:
        """See `OnlineStore.dirty`. An item that was removed for good is dirty too: the index may still hold it."""
        view, _ = self._codecs.of_space(space)
        return [DirtyMark(key.decode(), token) for key, token in self._kv.marks(self._codecs.table(view), limit)]

    def clear_dirty(self, space: EmbeddingSpace, marks: Sequence[DirtyMark]) -> int:
        """See `OnlineStore.clear_dirty`."""
        view, _ = self._codecs.of_space(space)
        return self._kv.unmark(self._codecs.table(view), [(mark.item_id.encode(), mark.token) for mark in marks])

    def mark_dirty(self, space: EmbeddingSpace, ids: Sequence[str]) -> int:
        """See `OnlineStore.mark_dirty`."""
        view, _ = self._codecs.of_space(space)
        return self._kv.mark(self._codecs.table(view), list(dict.fromkeys(i.encode() for i in ids)))

    def delete(self, view: ViewSpec, ids: Sequence[EntityId]) -> int:
        """See `OnlineStore.delete`. Items of an embedding view stay dirty until the indexer has removed them from the index."""
        keys = list(dict.fromkeys(lookups(view, ids)))
        return self._kv.remove(self._codecs.table(view), keys, mark=view.kind is ViewKind.EMBEDDING)

    def drop_view(self, view: ViewSpec) -> int:
        """See `OnlineStore.drop_view`."""
        found = self._kv.drop(self._codecs.table(view))
        self._codecs.release(view)
        return found

    def count(self, view: ViewSpec) -> int:
        """See `OnlineStore.count`; walks the keys of the view."""
        return sum(map(len, self._kv.scan(self._codecs.table(view))))

    def scan(self, view: ViewSpec) -> Iterator[list[EntityId]]:
        """See `OnlineStore.scan`."""
        for keys in self._kv.scan(self._codecs.table(view)):
            yield [entity_of(view, key) for key in keys]

    def foreign_keys(self) -> int:
        """See `OnlineStore.foreign_keys`."""
        return self._kv.foreign_keys()

    def close(self) -> None:
        """See `OnlineStore.close`."""
        self._kv.close()

    def _fetch(self, view: ViewSpec, ids: Sequence[EntityId]) -> list[bytes]:
        return self._kv.get(self._codecs.table(view), lookups(view, ids), self._codecs.of(view).layout.blank)

    def _read(self, view: ViewSpec, ids: Sequence[EntityId], fields: Sequence[str]) -> tuple[Records, NDArray[np.int8]]:
        records = self._codecs.of(view).unpack(self._fetch(view, ids), fields)
        return records, self._status(view, records.heads)

    def _heads(self, view: ViewSpec, heads: NDArray[Any]) -> Heads:
        status = self._status(replace(view, ttl=None), heads)
        version, event, encoded = (_times(heads, name) for name in ("source_version", "event_timestamp", "encoded_at"))
        return Heads(status, version, event, encoded, np.ascontiguousarray(heads["order"]["content_hash"]))

    def _status(self, view: ViewSpec, heads: NDArray[Any]) -> NDArray[np.int8]:
        flags = heads["flags"]
        status = np.full(len(heads), Status.PRESENT, np.int8)
        if view.ttl is not None:
            oldest = self._clock() - view.ttl // timedelta(microseconds=1)
            status[unbiased(heads["order"]["event_timestamp"]) < oldest] = Status.EXPIRED
        status[(flags & DELETED) != 0] = Status.DELETED
        status[(flags & STORED) == 0] = Status.ABSENT
        return status

    def _require_past(self, view: ViewSpec, times: NDArray[np.int64], what: str) -> None:
        """A time ahead of the clock would win over everything written until then, so none is let in."""
        if view.max_ahead_us is None or not len(times):
            return
        latest = self._clock() + view.max_ahead_us
        if int(times.max()) > latest:
            raise Poison(
                f"view {view.name}: {what}: expected times up to now + {view.max_ahead_us // 1_000_000} s ({latest} us), "
                f"got {int(times.max())}; correct the clock or unit at the source (nothing was written)"
            )

    def _merge(self, view: ViewSpec, codec: SequenceCodec, rows: pa.Table) -> Outcomes:
        keys, behaviours = keys_of(view, rows), codec.behaviours(rows)
        together: dict[bytes, set[Behaviour]] = {}
        for key, some in zip(keys, behaviours, strict=True):
            together.setdefault(key, set()).update(some)
        users, news = list(together), list(together.values())
        times = np.fromiter((b.time for some in news for b in some), np.int64)
        self._require_past(view, times, "times")
        self._codecs.admit(view, codec, len(users))
        length = self._length

        def combine(row: int, stored: bytes) -> bytes:
            return codec.merge(stored, news[row], length=length)

        outcomes = dict(zip(users, self._kv.merge(self._codecs.table(view), users, combine).tolist(), strict=True))
        return np.array([outcomes[key] for key in keys], np.int8)


def _values(view: ViewSpec, name: str, records: Records) -> pa.Array:
    values = head_column(view, name, records.heads)
    return records.columns[name] if values is None else values


def _times(heads: NDArray[Any], name: str) -> NDArray[np.int64]:
    stored = (heads["flags"] & STORED) != 0
    return np.where(stored, unbiased(heads["order"][name]), 0)


def _numbers(view: ViewSpec) -> list[str]:
    fence = {names.SOURCE_VERSION, names.DELETED} if view.fenced else set()
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    return [f.name for f in view.fields if f.name not in fence and any(test(f.type) for test in tests)]


def _counts(outcomes: Outcomes) -> WriteCounts:
    applied, equal, stale = np.bincount(outcomes, minlength=len(Outcome)).tolist()
    return WriteCounts(applied, equal, stale)
