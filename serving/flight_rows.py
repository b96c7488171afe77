"""Record batches of the Flight server: requests that come in, features and vectors that go out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from moontide import names
from moontide.embeddings import Embeddings
from moontide.spaces import EmbeddingSpace
from serving.features import vector_column
from serving.http.problems import Problem

_TEXT: Final = (pa.string(), pa.large_string())
_LISTS: Final = tuple(kind(text) for kind in (pa.list_, pa.large_list) for text in _TEXT)


def require_size(batch: pa.RecordBatch, rows: int, size: int) -> None:
    """Of a batch that was just read: Arrow has no limit to be set before it decompresses one.

    Raises:
        Problem: more `rows`, or more than `size` bytes of memory.
    """
    if batch.num_rows > rows or batch.get_total_buffer_size() > size:
        got = f"{batch.num_rows} rows, {batch.get_total_buffer_size()} bytes"
        raise Problem("too-large", f"batch: expected at most {rows} rows and {size} bytes, decompressed, got {got}; split it")


def requests(batch: pa.RecordBatch, most: int) -> Iterator[tuple[str, pa.Array]]:
    """(user id, candidates) of each row.

    Args:
        batch: ``user_id`` string, ``item_ids`` list<string>; nobody vouches for it.
        most: candidates of one row.

    Raises:
        Problem: other columns, a null, or too many candidates.
    """
    types = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    if set(types) != {names.USER_ID, "item_ids"} or types[names.USER_ID] not in _TEXT or types["item_ids"] not in _LISTS:
        said = ", ".join(f"{field.name}: {field.type}" for field in batch.schema)[:120]
        raise Problem("poison", f"columns: expected user_id: string and item_ids: list<string>, got {said or 'none'}")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise Problem("malformed", "batch: expected valid Arrow data in UTF-8, got something else") from error
    for user_id, items in zip(batch[names.USER_ID].to_pylist(), batch["item_ids"], strict=True):
        if user_id is None or not items.is_valid:
            raise Problem("poison", "user_id, item_ids: expected values, got null")
        if len(items.values) > most:
            raise Problem(
                "too-many-candidates", f"item_ids: expected at most {most} a row, got {len(items.values)}; split the row"
            )
        yield user_id, items.values


def features_schema(schema: pa.Schema, without: tuple[str, ...]) -> pa.Schema:
    """What is streamed for tables of `schema`: ``user_id`` in front; metadata `without` those that differ from row to row."""
    told = {name: value for name, value in (schema.metadata or {}).items() if name.decode() not in without}
    return pa.schema([pa.field(names.USER_ID, pa.string()), *schema], metadata=told)


def features_batch(schema: pa.Schema, user_id: str, table: pa.Table) -> pa.RecordBatch:
    """`table` as one batch of `schema`."""
    columns = [column.combine_chunks() for column in table.columns]
    return pa.record_batch([pa.repeat(pa.scalar(user_id, pa.string()), table.num_rows), *columns], schema=schema)


def vectors_schema(space: EmbeddingSpace, *, codes: bool) -> pa.Schema:
    """``item_id``, ``embedding_present``, and the float vector or its codes (D) with scale and norm."""
    as_codes = [("codes", pa.list_(pa.int8(), space.dim)), ("scale", pa.float32()), ("inv_norm", pa.float32())]
    as_floats = [("embedding", pa.list_(pa.float32(), space.dim))]
    told = {"space": space.id, "encoder_digest": space.encoder_digest}
    columns = [(names.ITEM_ID, pa.string()), ("embedding_present", pa.bool_()), *(as_codes if codes else as_floats)]
    return pa.schema(columns, metadata=told)


def vectors_batch(schema: pa.Schema, found: Embeddings) -> pa.RecordBatch:
    """B rows of `schema`; vector, scale and norm null where not present."""
    dim = found.space.dim
    columns = [pa.array(found.ids or (), pa.string()), pa.array(found.present)]
    if "codes" in schema.names:
        columns += [
            vector_column(dim, found.codes, found.present),  # type: ignore[arg-type]
            pa.array(found.scale, mask=~found.present),
            pa.array(found.inv_norm, mask=~found.present),
        ]
    else:
        columns.append(vector_column(dim, found.to_float(), found.present))
    return pa.record_batch(columns, schema=schema)
