"""Rows of the two offline tables a backfill writes, from joined catalog rows (B rows) and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from encoders import Item
from moontide import schemas
from moontide.embeddings import Embeddings
from moontide.spaces import EmbeddingSpace
from moontide.standing import flags, integers, standing

_VALUES = ("price", "category", "has_image", "has_text")


def items_of(batch: pa.RecordBatch) -> list[Item]:
    """The content of each row; bytes win over a path."""
    named = ("item_id", "title", "description", "attributes", "image", "image_bytes", "price", "category")
    columns = [batch[c].to_pylist() for c in named]
    return [
        Item(item_id, title, description, attributes, image_bytes or image or None, price, category)
        for item_id, title, description, attributes, image, image_bytes, price, category in zip(*columns, strict=True)
    ]


def head_vectors(space: EmbeddingSpace, batch: pa.RecordBatch) -> Embeddings:
    """The vectors the heads of these rows hold (every row has one)."""
    raw = b"".join(batch["head_codes"].to_pylist())
    codes = np.frombuffer(raw, np.int8).reshape(len(batch), space.dim)
    scale = batch["head_scale"].to_numpy(zero_copy_only=False).astype(np.float32)
    return Embeddings.from_codes(space, codes, scale, ids=batch["item_id"].to_pylist())


def feature_table(batch: pa.RecordBatch, items: Sequence[Item], *, now_us: int) -> pa.Table:
    """Rows of `schemas.ITEM_FEATURES` for the rows that say something new; a deleted one has no values."""
    deleted = flags(batch["deleted"])
    at = standing(integers(batch["source_version"]), integers(batch["event_us"]), batch["feature_version"], batch["feature_us"])
    live = pa.array(~deleted)
    values = {
        "price": pc.if_else(live, batch["price"].cast(pa.float32()), None),
        "category": pc.if_else(live, batch["category"], None),
        "has_image": pc.if_else(live, pa.array([item.image is not None for item in items], pa.bool_()), None),
        "has_text": pc.if_else(live, pa.array([item.has_text for item in items], pa.bool_()), None),
    }
    same = flags(pc.equal(batch["feature_deleted"], batch["deleted"]))
    for name in _VALUES:
        same &= _same(values[name], batch[f"feature_{name}"])
    wanted = at.newer | (at.equal & ~same)
    columns: dict[str, Any] = {
        "item_id": batch["item_id"],
        "source_version": batch["source_version"],
        "event_timestamp": pa.array(at.event_us),
        "created": pa.array(np.full(len(batch), now_us)),
        "deleted": batch["deleted"],
        **values,
    }
    return _table(columns, schemas.ITEM_FEATURES).filter(pa.array(wanted))


def _same(left: pa.Array, right: pa.Array) -> NDArray[np.bool_]:
    """(B,) bool: equal, or null on both sides."""
    both_null = np.asarray(~(left.is_valid().to_numpy(zero_copy_only=False) | right.is_valid().to_numpy(zero_copy_only=False)))
    found: NDArray[np.bool_] = flags(pc.equal(left, right)) | both_null
    return found


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = [columns[f.name].cast(f.type) for f in schema]
    return pa.table(arrays, schema=schema)
