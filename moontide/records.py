"""Between `Embeddings` and rows of the embedding table: one conversion for jobs, stores, streaming and serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide import schemas
from moontide.embeddings import Embeddings
from moontide.order import HASH_BYTES
from moontide.spaces import EmbeddingSpace

Micros = int | NDArray[np.int64]
#: Content hash of a row that has no content: a tombstone.
NO_CONTENT_HASH: Final = "0" * 2 * HASH_BYTES


def embedding_rows(
    embeddings: Embeddings,
    *,
    source_version: Micros,
    event_timestamp: Micros,
    encoded_at: Micros,
    content_known_at: Micros,
    content_hash: Sequence[str] | None = None,
    deleted: NDArray[np.bool_] | None = None,
) -> pa.Table:
    """B rows of `schemas.ITEM_EMBEDDING`.

    Args:
        embeddings: B rows with ids; a tombstone is a row that is not present.
        source_version: one for all rows, or (B,) int64.
        event_timestamp, encoded_at, content_known_at: microseconds UTC, one for all rows or (B,) int64.
        content_hash: B strings of 32 hex digits; default all zero.
        deleted: (B,) bool; default no row.

    Raises:
        ValueError: embeddings without ids, or a tombstone with a vector.
    """
    rows, space = len(embeddings), embeddings.space
    if embeddings.ids is None:
        raise ValueError("embedding_rows: expected ids, got none; use Embeddings.with_ids")
    gone = np.zeros(rows, bool) if deleted is None else deleted
    if bool((gone & embeddings.present).any()):
        raise ValueError("embedding_rows: expected tombstones without a vector, got one with; use Embeddings.absent")
    offsets = pa.array(np.arange(0, rows * space.dim + 1, space.dim, dtype=np.int32))
    columns = {
        "item_id": pa.array(embeddings.ids, pa.string()),
        "source_version": pa.array(np.broadcast_to(source_version, rows), pa.int64()),
        "event_timestamp": _times(event_timestamp, rows),
        "encoded_at": _times(encoded_at, rows),
        "content_known_at": _times(content_known_at, rows),
        "content_hash": pa.array([NO_CONTENT_HASH] * rows if content_hash is None else content_hash, pa.string()),
        "deleted": pa.array(gone),
        "codes": binary_rows(embeddings.codes),
        "scale": pa.array(embeddings.scale),
        "inv_norm": pa.array(embeddings.inv_norm),
        "embedding": pa.ListArray.from_arrays(offsets, pa.array(embeddings.to_float().ravel())),
        "space": pa.array([space.id] * rows, pa.string()),
    }
    return pa.table([columns[f.name] for f in schemas.ITEM_EMBEDDING], schema=schemas.ITEM_EMBEDDING)


def embeddings_of(space: EmbeddingSpace, rows: pa.Table) -> Embeddings:
    """The vectors of rows with columns ``item_id``, ``codes`` and ``scale``; tombstones are not present.

    Raises:
        ValueError: a row whose codes are not `space.dim` bytes.
    """
    count = rows.num_rows
    raw = b"".join(rows.column("codes").to_pylist())
    if len(raw) != count * space.dim:
        raise ValueError(f"{space.id}: expected {space.dim} codes a row, got {len(raw)} bytes in {count} rows")
    codes = np.frombuffer(raw, np.int8).reshape(count, space.dim)
    scale = rows.column("scale").to_numpy().astype(np.float32, copy=False)
    return Embeddings.from_codes(space, codes, scale, ids=rows.column("item_id").to_pylist())


def binary_rows(codes: NDArray[np.int8]) -> pa.Array:
    """(B, D) int8 as an Arrow binary column of B values of D bytes, without a Python object per row."""
    rows, width = codes.shape
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(np.ascontiguousarray(codes))])
    return fixed.cast(pa.binary())


def _times(value: Micros, rows: int) -> pa.Array:
    return pa.array(np.ascontiguousarray(np.broadcast_to(value, rows)).astype(np.int64), pa.int64()).cast(schemas.TIMESTAMP)
