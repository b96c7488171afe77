"""Arrow schemas of everything that is stored or exchanged; Feast, Spark and Milvus types are derived from these.

Timestamps are microseconds in UTC. `docs/reference/schemas.md` is the prose twin of this file.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from moontide.errors import Misconfigured

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
FLOATS: Final = pa.list_(pa.float32())
STRINGS: Final = pa.list_(pa.string())

#: What a site hands in. Only `item_id` and one of `title`, `image`, `image_bytes` must be columns of the file.
CATALOG: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("attributes", pa.string()),
        pa.field("image", pa.string()),
        pa.field("image_bytes", pa.binary()),
        pa.field("category", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("source_version", pa.int64()),
        pa.field("event_timestamp", TIMESTAMP),
        pa.field("deleted", pa.bool_()),
    ]
)
CATALOG_CONTENT: Final = ("title", "image", "image_bytes")

BEHAVIOURS: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
    ]
)

IMPRESSIONS: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("label", pa.float32()),
        pa.field("request_id", pa.string()),
    ]
)

#: Pairs an encoder is trained on (`jobs/training_pairs.py`). A query is an item, a text or a picture: one of the first three.
TRAINING_PAIRS: Final = pa.schema(
    [
        pa.field("query_item_id", pa.string()),
        pa.field("query_text", pa.string()),
        pa.field("query_image", pa.string()),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("negative_item_id", pa.string()),
        pa.field("purchased", pa.bool_(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("log_q", pa.float32(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("event_timestamp", TIMESTAMP),
    ]
)
#: Values of `kind`, what each is made of, and where it may train: search and basket pairs are behaviour, the others content.
PAIR_KINDS: Final = ("search", "click", "basket", "session", "same_product", "title_image", "enriched_title")

#: One row per (item, source_version, event_timestamp, encoded_at) of one space; `embedding` is ``codes * scale``.
ITEM_EMBEDDING: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("source_version", pa.int64(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("encoded_at", TIMESTAMP, nullable=False),
        pa.field("content_known_at", TIMESTAMP, nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field("codes", pa.binary(), nullable=False),
        pa.field("scale", pa.float32(), nullable=False),
        pa.field("inv_norm", pa.float32(), nullable=False),
        pa.field("embedding", FLOATS, nullable=False),
        pa.field("space", pa.string(), nullable=False),
    ]
)

ITEM_FEATURES: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("source_version", pa.int64(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created", TIMESTAMP, nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field("price", pa.float32()),
        pa.field("category", pa.string()),
        pa.field("has_image", pa.bool_()),
        pa.field("has_text", pa.bool_()),
    ]
)

#: A user's last L behaviours, ordered by (time, item, action), newest last.
USER_SEQUENCE: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created", TIMESTAMP, nullable=False),
        pa.field("item_ids", STRINGS, nullable=False),
        pa.field("actions", STRINGS, nullable=False),
        pa.field("times", pa.list_(pa.int64()), nullable=False),
        pa.field("sequence_version", pa.int64(), nullable=False),
    ]
)

USER_ITEM_SIMTIER: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created", TIMESTAMP, nullable=False),
        pa.field("counts", pa.list_(pa.int32()), nullable=False),
        pa.field("missing", pa.int32(), nullable=False),
        pa.field("sequence_version", pa.int64(), nullable=False),
        pa.field("history_digest", pa.string(), nullable=False),
        pa.field("computed_at", TIMESTAMP, nullable=False),
    ]
)

REJECTS: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("item_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("rejected_at", TIMESTAMP, nullable=False),
    ]
)


def require_columns(got: pa.Schema, expected: pa.Schema, required: tuple[str, ...], *, where: str) -> None:
    """Check a file's schema against a contract before a row is read.

    Columns beyond `expected` are allowed; a known column must be castable in kind (string stays string, number stays number).

    Raises:
        Misconfigured: a required column is missing or a known one has another kind of type.
    """
    missing = [name for name in required if name not in got.names]
    if missing:
        raise Misconfigured(
            f"{where}: expected columns {list(required)}, got {got.names}; add {missing} (see docs/reference/schemas.md)"
        )
    twice = sorted({f.name for f in expected if got.names.count(f.name) > 1})
    if twice:
        raise Misconfigured(f"{where}: expected each column once, got {twice} more than once; rename one of each on export")
    for field in expected:
        if field.name in got.names and not _same_kind(got.field(field.name).type, field.type):
            raise Misconfigured(
                f"{where}: column {field.name}: expected {field.type}, got {got.field(field.name).type}; cast it on export"
            )


def _same_kind(got: pa.DataType, expected: pa.DataType) -> bool:
    return pa.types.is_null(got) or _kind(got) == _kind(expected)


def _kind(kind: pa.DataType) -> str:
    tests = {
        "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "binary": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
        "number": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
        "time": (pa.types.is_timestamp, pa.types.is_date),
        "list": (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
        "bool": (pa.types.is_boolean,),
    }
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    return next((name for name, checks in tests.items() if any(check(kind) for check in checks)), str(kind))
