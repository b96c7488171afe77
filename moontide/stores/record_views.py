"""From rows of a view to packed records and back, one codec per kind of view (shapes: B rows, D dims)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names
from moontide.errors import Misconfigured, Poison
from moontide.order import HASH_BYTES, ORDER_DTYPE, biased, unbiased
from moontide.schemas import TIMESTAMP
from moontide.stores.base import EntityId
from moontide.stores.record import DELETED, Layout, Records, TagMismatch, heads_of
from moontide.views import ViewKind, ViewSpec

_SEPARATOR: Final = "\0"
_IDS: Final = frozenset({names.ITEM_ID, names.USER_ID})
CONTENT_HASH: Final = "content_hash"
#: ``tag -> the schema those records were written with``, None where it was never registered.
SchemaOf = Callable[[int], pa.Schema | None]


class Codec(Protocol):
    """Packs and unpacks the records of one view."""

    layout: Layout

    def pack(self, rows: pa.Table, orders: NDArray[Any], deleted: NDArray[np.bool_]) -> list[bytes]:
        """Records of B rows. Raises `Poison` or `Misconfigured` for rows that can never be stored."""

    def unpack(self, records: Sequence[bytes], wanted: Sequence[str]) -> Records:
        """The wanted columns of ``view.table`` that are not in the head; of any value where a record is blank or deleted."""

    def heads(self, records: Sequence[bytes]) -> NDArray[Any]:
        """(B,) of `record.HEAD`; records of another layout raise as in `unpack`."""


def column(rows: pa.Table, field: pa.Field, *, where: str) -> pa.Array:
    """One column as one array of the field's type; times are cut to its unit, and count as UTC where they name no zone.

    Raises:
        Misconfigured: no such column, or a type that does not convert.
    """
    if field.name not in rows.column_names:
        raise Misconfigured(f"{where}: expected column {field.name!r}, got {rows.column_names}; add it")
    values = rows.column(field.name)
    try:
        chunks = values if values.type == field.type else values.cast(field.type, safe=not pa.types.is_timestamp(field.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Misconfigured(f"{where}: column {field.name}: expected {field.type}, got {values.type}: {error}") from error
    merged = chunks.combine_chunks()
    return merged if isinstance(merged, pa.Array) else pa.concat_arrays(merged.chunks)


def optional(rows: pa.Table, field: pa.Field, *, where: str) -> pa.Array:
    """As `column`, all null where the column is missing."""
    if field.name in rows.column_names:
        return column(rows, field, where=where)
    return pa.nulls(rows.num_rows, field.type)


def head_fields(view: ViewSpec) -> frozenset[str]:
    """Columns of ``view.table`` that live in the record's head."""
    fence = {names.SOURCE_VERSION, names.DELETED} if view.fenced else set()
    digest = {CONTENT_HASH} if view.kind is ViewKind.EMBEDDING else set()
    return frozenset({names.EVENT_TIMESTAMP, view.created, *fence, *digest, *view.entities})


def orders(view: ViewSpec, rows: pa.Table) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Write orders (B,) of `ORDER_DTYPE` and tombstone flags (B,) of rows.

    Raises:
        Poison: a null version or time, or a content hash that is not 32 hex digits.
    """
    packed = np.zeros(rows.num_rows, ORDER_DTYPE)
    deleted = np.zeros(rows.num_rows, np.bool_)
    version = np.zeros(rows.num_rows, np.int64)
    if view.fenced:
        version = _integers(column(rows, pa.field(names.SOURCE_VERSION, pa.int64()), where=view.name), names.SOURCE_VERSION)
        flags = optional(rows, pa.field(names.DELETED, pa.bool_()), where=view.name)
        deleted = pc.fill_null(flags, False).to_numpy(zero_copy_only=False)
    event = column(rows, pa.field(names.EVENT_TIMESTAMP, TIMESTAMP), where=view.name)
    created = pa.nulls(rows.num_rows, TIMESTAMP)
    if view.created:
        created = optional(rows, pa.field(view.created, TIMESTAMP), where=view.name)
    packed["source_version"] = biased(version)
    packed["event_timestamp"] = biased(_integers(event.cast(pa.int64()), names.EVENT_TIMESTAMP))
    packed["encoded_at"] = biased(_integers(pc.fill_null(created.cast(pa.int64()), 0), view.created))
    if view.kind is ViewKind.EMBEDDING:
        packed["content_hash"] = _digests(optional(rows, pa.field(CONTENT_HASH, pa.string()), where=view.name))
    return packed, deleted


def head_column(view: ViewSpec, name: str, heads: NDArray[Any]) -> pa.Array | None:
    """A column of ``view.table`` that lives in the head, of every row; None for a column that does not."""
    order = heads["order"]
    if name == names.EVENT_TIMESTAMP:
        return pa.array(unbiased(order["event_timestamp"])).cast(TIMESTAMP)
    if name == view.created:
        return pa.array(unbiased(order["encoded_at"])).cast(TIMESTAMP)
    if view.fenced and name == names.SOURCE_VERSION:
        return pa.array(unbiased(order["source_version"]))
    if view.fenced and name == names.DELETED:
        return pa.array((heads["flags"] & DELETED) != 0)
    if view.kind is ViewKind.EMBEDDING and name == CONTENT_HASH:
        text = np.ascontiguousarray(order["content_hash"]).tobytes().hex().encode()
        offsets = np.arange(len(heads) + 1, dtype=np.int32) * (2 * HASH_BYTES)
        return pa.Array.from_buffers(pa.string(), len(heads), [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    return None


def keys_of(view: ViewSpec, rows: pa.Table) -> list[bytes]:
    """The store key of each row: its join keys in the view's order, NUL between them.

    Raises:
        Poison: a join key is null or holds NUL, or an `item_id` or `user_id` is none.
    """
    parts = [column(rows, pa.field(name, pa.string()), where=view.name) for name in view.entities]
    for name, part in zip(view.entities, parts, strict=True):
        if name in _IDS:
            ok = names.valid_ids(part)
        else:
            ok = pc.fill_null(pc.invert(pc.match_substring(part, _SEPARATOR)), False).to_numpy(zero_copy_only=False)
        if not ok.all():
            bad = part[int(np.flatnonzero(~ok)[0])].as_py()
            names.require_ids([bad], what=name)
            raise Poison(f"{name}: expected a text without NUL, got {str(bad)[:80]!r}; reject that row")
    joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _SEPARATOR)
    return cast(list[bytes], joined.cast(pa.binary()).to_pylist())


def lookups(view: ViewSpec, ids: Sequence[EntityId]) -> list[bytes]:
    """The store key of each entity asked for."""
    if len(view.entities) == 1:
        try:
            return list(map(str.encode, cast(Sequence[str], ids)))
        except TypeError:
            return [(i if isinstance(i, str) else i[0]).encode() for i in ids]
    return [_SEPARATOR.join(parts).encode() for parts in ids]


def entity_of(view: ViewSpec, key: bytes) -> EntityId:
    """Inverse of `lookups`."""
    return key.decode() if len(view.entities) == 1 else tuple(key.decode().split(_SEPARATOR))


def entity_columns(view: ViewSpec, ids: Sequence[EntityId]) -> dict[str, pa.Array]:
    """The join-key columns of the entities asked for, of the view's types."""
    if len(view.entities) == 1 and {*map(type, ids)} <= {str}:
        parts: Iterable[Sequence[object]] = (ids,)
    else:
        parts = zip(*((i,) if isinstance(i, str) else i for i in ids), strict=True) if ids else ((),) * len(view.entities)
    columns = {}
    for name, values in zip(view.entities, parts, strict=True):
        columns[name] = pa.array(values, pa.string()).cast(view.table.field(name).type)
    return columns


def _integers(values: pa.Array, name: str) -> NDArray[np.int64]:
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise Poison(f"{name}: expected a value in every row, got null in row {row}; it orders the writes: set it at the source")
    return cast(NDArray[np.int64], values.to_numpy(zero_copy_only=False).astype(np.int64))


def _digests(texts: pa.Array) -> NDArray[np.uint8]:
    digests = np.zeros((len(texts), HASH_BYTES), np.uint8)
    texts = pc.fill_null(texts, "")
    size = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    given = size > 0
    try:
        if (size[given] != 2 * HASH_BYTES).any():
            raise ValueError("another length")
        packed = bytes.fromhex("".join(texts.filter(pa.array(given)).to_pylist()))
        digests[given] = np.frombuffer(packed, np.uint8).reshape(-1, HASH_BYTES)
    except ValueError as error:
        raise Poison(
            f"{CONTENT_HASH}: expected 32 hex digits, or nothing, got a row with neither ({error}); hash the content anew"
        ) from error
    return digests


class ColumnsCodec:
    """Typed fields. A record of an earlier schema of the view reads with what it has: fields it lacks are null."""

    def __init__(self, view: ViewSpec, schema_of: SchemaOf) -> None:
        self._view = view
        self._schema_of = schema_of
        self._layouts: dict[int, Layout] = {}
        skipped = head_fields(view)
        self.layout = Layout(pa.schema([f for f in view.table if f.name not in skipped]))

    def pack(self, rows: pa.Table, orders: NDArray[Any], deleted: NDArray[np.bool_]) -> list[bytes]:
        """See `Codec.pack`."""
        columns = {f.name: column(rows, f, where=self._view.name) for f in self.layout.schema}
        if deleted.any():
            kept = pa.array(~deleted)
            columns = {name: pc.if_else(kept, values, pa.scalar(None, values.type)) for name, values in columns.items()}
        return self.layout.encode(orders, deleted, columns)

    def unpack(self, records: Sequence[bytes], wanted: Sequence[str]) -> Records:
        """See `Codec.unpack`."""
        try:
            return self.layout.decode(records, wanted)
        except TagMismatch as mixed:
            return self._unpack_mixed(records, wanted, mixed.tags)

    def heads(self, records: Sequence[bytes]) -> NDArray[Any]:
        """See `Codec.heads`."""
        return heads_of(records)

    def _unpack_mixed(self, records: Sequence[bytes], wanted: Sequence[str], tags: NDArray[np.uint64]) -> Records:
        parts, places = [], []
        for tag in np.unique(tags):
            rows = np.flatnonzero(tags == tag)
            parts.append(self._of(int(tag)).decode([records[n] for n in rows.tolist()], wanted))
            places.append(rows)
        back = np.argsort(np.concatenate(places))
        columns = {}
        for field in self.layout.schema:
            if field.name in wanted:
                pieces = [_as(p.columns.get(field.name), field, len(p.heads), self._view.name) for p in parts]
                columns[field.name] = pa.concat_arrays(pieces).take(pa.array(back))
        return Records(np.concatenate([p.heads for p in parts])[back], columns)

    def _of(self, tag: int) -> Layout:
        if tag == self.layout.tag:
            return self.layout
        if tag not in self._layouts:
            schema = self._schema_of(tag)
            if schema is None:
                raise Misconfigured(
                    f"view {self._view.name}: expected records of a schema that was written here, got tag {tag:016x}; "
                    "drop the view and load it again"
                )
            self._layouts[tag] = Layout(schema)
        return self._layouts[tag]


def _as(values: pa.Array | None, field: pa.Field, rows: int, view: str) -> pa.Array:
    if values is None:
        return pa.nulls(rows, field.type)
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Misconfigured(
            f"view {view}: field {field.name}: expected {field.type}, got records of {values.type} that do not convert: {error}; "
            "give the changed field another name, or drop the view and load it again"
        ) from error
