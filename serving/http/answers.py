"""A table as the bytes of an answer, column by column."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from serving.http.media import ARROW

#: What ends a stream: a mark and a length of 0.
_END_BYTES: Final = 8
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


def encoded(table: pa.Table, media: str) -> bytes | memoryview:
    """`table` as an Arrow stream, or as a JSON object of its metadata and ``columns``."""
    return to_arrow(table) if media == ARROW else to_json(table)


def to_arrow(table: pa.Table) -> memoryview:
    """One Arrow IPC stream, written into memory of its size: a buffer that grows copies all of it again and again."""
    if any(pa.types.is_dictionary(field.type) for field in table.schema):
        # The size of a batch does not count its dictionaries.
        grown = pa.BufferOutputStream()
        _write(grown, table)
        return memoryview(grown.getvalue())
    size = table.schema.serialize().size + sum(map(pa.ipc.get_record_batch_size, table.to_batches()))
    buffer = pa.allocate_buffer(size + _END_BYTES)
    with pa.FixedSizeBufferWriter(buffer) as sink:
        _write(sink, table)
        return memoryview(buffer)[: sink.tell()]


def _write(sink: Any, table: pa.Table) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def to_json(table: pa.Table) -> bytes:
    """The schema's metadata as strings, and ``columns``: for each name a list of B values, null where there is none.

    A float32 is written with the fewest digits that give it back; NaN and the infinities are null. Times are RFC 3339 in UTC.
    """
    said = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    columns = {name: _values(table.column(name)) for name in table.column_names}
    return orjson.dumps({**said, "columns": columns}, option=_JSON_OPTIONS)


def _values(column: pa.ChunkedArray) -> Any:
    """What orjson writes as the values of `column`: arrays where there is one, without a Python object a number."""
    if pa.types.is_fixed_size_list(column.type):
        return _vectors(column)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp(column.type.unit))
    elif not pa.types.is_floating(column.type) and (column.null_count or not pa.types.is_integer(column.type)):
        return column.to_pylist()
    return np.ascontiguousarray(column.to_numpy())


def _vectors(column: pa.ChunkedArray) -> Any:
    """(B, D) values; a list of rows where some are null."""
    width = column.type.list_size
    parts = [chunk.values.slice(chunk.offset * width, len(chunk) * width) for chunk in column.chunks]
    flat = pa.chunked_array(parts, column.type.value_type).to_numpy()
    matrix = np.ascontiguousarray(flat).reshape(len(column), width)
    if not column.null_count:
        return matrix
    rows: list[np.ndarray | None] = list(matrix)
    for at in np.flatnonzero(column.is_null().to_numpy()).tolist():
        rows[at] = None
    return rows
