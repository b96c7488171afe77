"""A column of ids out of an Arrow stream that nobody vouches for."""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

from moontide import names
from serving.http.problems import Problem

#: Offset of a field in a flatbuffer's table of fields: 4 bytes of sizes, then 2 bytes a field.
_MESSAGE_HEADER: Final = 4 + 2 * 2
_MESSAGE_METADATA: Final = 4 + 2 * 4
_BATCH_COMPRESSION: Final = 4 + 2 * 3
_U16, _I32, _U32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")


def read_ids(body: bytes, *, most: int) -> tuple[list[str], dict[str, str]]:
    """The ids of a stream whose one column is ``item_id``, and its schema's metadata.

    Compressed buffers are refused: a small body could ask for any amount of memory.

    Args:
        body: an Arrow IPC stream.
        most: rows it may have.

    Raises:
        Problem: it is no such stream, has other columns, nulls, or too many rows.
    """
    try:
        source = pa.BufferReader(body)
        schema = pa.ipc.read_schema(source)
        _require_schema(schema)
        return _rows(source, schema, most), _metadata(schema)
    except (pa.ArrowException, EOFError, OSError, struct.error, UnicodeDecodeError) as error:
        raise Problem("malformed", f"body: expected an Arrow IPC stream in UTF-8, got {type(error).__name__}") from None


def _require_schema(schema: pa.Schema) -> None:
    if schema.names != [names.ITEM_ID] or schema.types[0] not in (pa.string(), pa.large_string()):
        said = ", ".join(f"{field.name}: {field.type}" for field in schema)[:120]
        raise Problem("poison", f"columns: expected one column item_id: string, got {said or 'none'}; the rest is metadata")


def _rows(source: pa.BufferReader, schema: pa.Schema, most: int) -> list[str]:
    ids: list[str] = []
    while source.tell() < source.size():
        message = _next(source)
        if message is None:
            break
        if _compressed(message.metadata.to_pybytes()):
            raise Problem("poison", "columns: expected uncompressed buffers and batches without metadata, got others")
        batch = pa.ipc.read_record_batch(message, schema)
        if len(ids) + batch.num_rows > most:
            raise Problem("too-many-candidates", f"item_ids: expected at most {most}, got more; split the request")
        batch.validate(full=True)
        ids.extend(batch.column(0).to_pylist())
    return ids


def _next(source: pa.BufferReader) -> pa.Message | None:
    """The next record batch; None at the end of the stream."""
    try:
        message = pa.ipc.read_message(source)
    except EOFError:
        return None
    if message.type != "record batch":
        raise Problem("poison", f"columns: expected record batches, got a {message.type}")
    return message


def _compressed(message: bytes) -> bool:
    """Whether the record batch described by a (verified) flatbuffer ``Message`` has compressed buffers, or may have."""
    message_at = _U32.unpack_from(message, 0)[0]
    # Arrow 0.17 named the codec there, and readers still believe it. Nothing else of ours is said there.
    if _field(message, message_at, _MESSAGE_METADATA) is not None:
        return True
    header = _field(message, message_at, _MESSAGE_HEADER)
    if header is None:
        return False
    batch = header + _U32.unpack_from(message, header)[0]
    return _field(message, batch, _BATCH_COMPRESSION) is not None


def _field(buffer: bytes, table: int, slot: int) -> int | None:
    """Where a field of the flatbuffer table at `table` lies; None: it is not there."""
    fields = table - _I32.unpack_from(buffer, table)[0]
    if slot >= _U16.unpack_from(buffer, fields)[0]:
        return None
    offset: int = _U16.unpack_from(buffer, fields + slot)[0]
    return table + offset if offset else None


def _metadata(schema: pa.Schema) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in (schema.metadata or {}).items()}
