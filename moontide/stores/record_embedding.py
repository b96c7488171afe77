"""The record of an embedding: codes, scale and norm; the float vector is derived, never stored (shapes: B rows, D dims)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.embeddings import CODE_MAX, Embeddings
from moontide.errors import Misconfigured, Poison, SpaceMismatch
from moontide.records import binary_rows
from moontide.schemas import FLOATS, TIMESTAMP
from moontide.spaces import EmbeddingSpace, describe
from moontide.stores.record import Layout, Records, TagMismatch, tag_of
from moontide.stores.record_views import column, optional
from moontide.views import ViewSpec

_KNOWN_AT = pa.field("content_known_at", TIMESTAMP)
_CODES = pa.field("codes", pa.binary())
_SCALE = pa.field("scale", pa.float32())
_EMBEDDING = pa.field("embedding", FLOATS)
_SPACE = pa.field("space", pa.string())


def space_identity(space: EmbeddingSpace) -> str:
    """Everything that makes two vectors comparable, the encoder's digest included."""
    return f"{space.stored_id}|{space.dim}|{space.codec}|{space.metric}|{space.encoder_digest}"


class EmbeddingCodec:
    """Records of one space; all of one length.

    Raises:
        Misconfigured: the view does not say which space it holds.
    """

    def __init__(self, view: ViewSpec) -> None:
        if view.space is None or view.space.prefix_of:
            raise Misconfigured(
                f"view {view.name}: expected its whole embedding space, got {view.space}; make it by views.embedding_view"
            )
        self.space = view.space
        self._view = view
        codes = pa.field("codes", pa.binary(self.space.dim))
        fields = [_KNOWN_AT, _SCALE, pa.field("inv_norm", pa.float32()), codes]
        self.layout = Layout(pa.schema(fields), tag=tag_of(space_identity(self.space)))

    def pack(self, rows: pa.Table, orders: NDArray[Any], deleted: NDArray[np.bool_]) -> list[bytes]:
        """See `Codec.pack`.

        Raises:
            SpaceMismatch: rows of another space or dim.
            Poison: codes or scales no encoder makes, or floats that are not ``codes * scale``.
        """
        self._require_space(rows)
        vectors = self._vectors(rows, deleted)
        known = optional(rows, _KNOWN_AT, where=self._view.name)
        event = column(rows, pa.field("event_timestamp", TIMESTAMP), where=self._view.name)
        columns = {
            "content_known_at": pc.coalesce(known, event),
            "scale": pa.array(vectors.scale),
            "inv_norm": pa.array(vectors.inv_norm),
            "codes": binary_rows(vectors.codes).cast(pa.binary(self.space.dim)),
        }
        return self.layout.encode(orders, deleted, columns)

    def unpack(self, records: Sequence[bytes], wanted: Sequence[str]) -> Records:
        """See `Codec.unpack`."""
        fixed = self._rows(records)
        vectors = self._decoded(fixed)
        columns: dict[str, pa.Array] = {}
        for name in wanted:
            if name == "embedding":
                offsets = np.arange(len(vectors) + 1, dtype=np.int32) * self.space.dim
                columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.to_float().ravel()), type=FLOATS)
            elif name == "codes":
                columns[name] = binary_rows(vectors.codes)
            elif name in ("scale", "inv_norm"):
                columns[name] = pa.array(getattr(vectors, name))
            elif name == "space":
                columns[name] = pa.repeat(self.space.stored_id, len(vectors))
            elif name == "content_known_at":
                times = np.ascontiguousarray(fixed["f:content_known_at"]).view(np.int64)
                columns[name] = pa.array(times).cast(TIMESTAMP)
        return Records(fixed["head"], columns)

    def vectors(self, records: Sequence[bytes]) -> tuple[NDArray[Any], Embeddings]:
        """Heads (B,), and vectors (B, D) without ids, where blank and deleted records are not present."""
        fixed = self._rows(records)
        return fixed["head"], self._decoded(fixed)

    def heads(self, records: Sequence[bytes]) -> NDArray[Any]:
        """See `Codec.heads`."""
        heads: NDArray[Any] = self._rows(records)["head"]
        return heads

    def _rows(self, records: Sequence[bytes]) -> NDArray[Any]:
        try:
            return self.layout.fixed_rows(records)
        except TagMismatch as other:
            rows = np.flatnonzero(other.tags != self.layout.tag)
            raise SpaceMismatch(
                f"view {self._view.name}: expected records of {describe(self.space)}, got {len(rows)} of {len(records)} made by "
                "another encoder or dim; give the new encoder a new space version, or drop the view and backfill it"
            ) from other

    def _decoded(self, fixed: NDArray[Any]) -> Embeddings:
        codes = np.ascontiguousarray(fixed["f:codes"]).view(np.int8).reshape(len(fixed), self.space.dim)
        scale = np.ascontiguousarray(fixed["f:scale"]).view(np.float32)
        inv_norm = np.ascontiguousarray(fixed["f:inv_norm"]).view(np.float32)
        return Embeddings(self.space, codes, scale, inv_norm, inv_norm > 0)

    def _require_space(self, rows: pa.Table) -> None:
        given = optional(rows, _SPACE, where=self._view.name).drop_null()
        other = pc.unique(given.filter(pc.not_equal(given, self.space.stored_id))).to_pylist()
        if other:
            raise SpaceMismatch(
                f"view {self._view.name}: expected rows of {self.space.stored_id}, got rows of {other[:3]}; "
                "write each space to the view of its own"
            )

    def _vectors(self, rows: pa.Table, deleted: NDArray[np.bool_]) -> Embeddings:
        where, dim, count = self._view.name, self.space.dim, rows.num_rows
        packed, floats = optional(rows, _CODES, where=where), optional(rows, _EMBEDDING, where=where)
        scales = optional(rows, _SCALE, where=where)
        coded = ~deleted & (_sizes(packed, pc.binary_length) > 0)
        shown = ~deleted & (_sizes(floats, pc.list_value_length) > 0)
        codes, scale = np.zeros((count, dim), np.int8), np.zeros(count, np.float32)
        if coded.any():
            codes[coded] = self._codes(packed.filter(pa.array(coded)))
            scale[coded] = pc.fill_null(scales, 0.0).to_numpy(zero_copy_only=False)[coded]
        born = shown & ~coded
        if born.any():
            fresh = Embeddings.from_float(self.space, self._floats(floats.filter(pa.array(born))))
            codes[born], scale[born] = fresh.codes, fresh.scale
        vectors = Embeddings.from_codes(self.space, codes, scale)
        _require_sound(vectors)
        both = shown & coded
        if both.any() and not np.array_equal(vectors.take(both).to_float(), self._floats(floats.filter(pa.array(both)))):
            raise Poison(
                f"view {where}: expected embedding == codes * scale, got other floats beside the codes; "
                "write the codes alone, or the floats alone"
            )
        return vectors

    def _codes(self, packed: pa.Array) -> NDArray[np.int8]:
        sizes = pc.binary_length(packed).to_numpy(zero_copy_only=False)
        self._require_dim(sizes, "codes")
        _, offsets, data = packed.buffers()
        start = np.frombuffer(offsets, np.int32)[packed.offset]
        return np.frombuffer(data, np.int8, int(sizes.sum()), start).reshape(-1, self.space.dim)

    def _floats(self, lists: pa.Array) -> NDArray[np.float32]:
        self._require_dim(pc.list_value_length(lists).to_numpy(zero_copy_only=False), "embedding")
        values: NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        return values.reshape(-1, self.space.dim)

    def _require_dim(self, sizes: NDArray[np.integer], what: str) -> None:
        wrong = sizes[sizes != self.space.dim]
        if len(wrong):
            raise SpaceMismatch(
                f"view {self._view.name}: expected {what} of {self.space.dim} dims ({describe(self.space)}), got {wrong[0]}; "
                "write each space to the view of its own"
            )


def _require_sound(vectors: Embeddings) -> None:
    bad = ~np.isfinite(vectors.scale) | (vectors.present != (vectors.scale > 0)) | (vectors.codes < -CODE_MAX).any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise Poison(
            f"row {row}: expected codes in -127..127 and a finite scale > 0 (both 0 for no vector), got scale "
            f"{vectors.scale[row]} and codes from {vectors.codes[row].min()}; quantise with Embeddings.from_float"
        )


def _sizes(values: pa.Array, size: Any) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.fill_null(size(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths
