"""The log of served requests: what a ranking service was given, and by which version of every record.

One row is one request of C candidates and a history of H behaviours (H at most the spec's L). A version names a row of an offline
table, so that `jobs/parity_audit.py` can make every value again; ``docs/reference/request-log.md`` is the prose twin.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.schemas import ITEM_FEATURES, STRINGS, TIMESTAMP

#: The fields of the write order of an embedding record.
VERSION: Final = pa.struct(
    [("source_version", pa.int64()), ("event_timestamp", TIMESTAMP), ("encoded_at", TIMESTAMP), ("content_hash", pa.string())]
)
#: The fields of the write order of an ``item_features`` record.
ITEM_VERSION: Final = pa.struct([("source_version", pa.int64()), ("event_timestamp", TIMESTAMP), ("created", TIMESTAMP)])
#: Item fields a service may serve, and the columns they have in the log.
ITEM_FIELDS: Final = {name: f"item_{name}" for name in ("price", "category", "has_image", "has_text")}
DIGEST_BYTES: Final = 16

REQUEST_LOG: Final = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("served_at", TIMESTAMP, nullable=False),
        pa.field("service", pa.string(), nullable=False),
        pa.field("space", pa.string(), nullable=False),
        pa.field("encoder_digest", pa.string(), nullable=False),
        pa.field("simtier", pa.string(), nullable=False),
        pa.field("sequence_version", pa.int64(), nullable=False),
        pa.field("sequence_item_ids", STRINGS, nullable=False),
        pa.field("sequence_actions", STRINGS, nullable=False),
        pa.field("sequence_times", pa.list_(pa.int64()), nullable=False),
        pa.field("history_versions", pa.list_(VERSION), nullable=False),
        pa.field("item_ids", STRINGS, nullable=False),
        pa.field("versions", pa.list_(VERSION), nullable=False),
        pa.field("embedding_present", pa.list_(pa.bool_()), nullable=False),
        pa.field("vector_digests", pa.list_(pa.binary()), nullable=False),
        pa.field("counts", pa.list_(pa.int32()), nullable=False),
        pa.field("missing", pa.list_(pa.int32()), nullable=False),
        pa.field("fields", STRINGS, nullable=False),
        pa.field("item_versions", pa.list_(ITEM_VERSION), nullable=False),
        *(pa.field(column, pa.list_(ITEM_FEATURES.field(name).type)) for name, column in ITEM_FIELDS.items()),
    ]
)


def vector_digests(codes: NDArray[np.int8], scale: NDArray[np.float32], present: NDArray[np.bool_]) -> list[bytes | None]:
    """16 bytes of each of B rows: BLAKE2b over the codes, then the little-endian float32 scale; None where not present."""
    scales = scale.astype("<f4")
    return [
        hashlib.blake2b(row.tobytes() + one.tobytes(), digest_size=DIGEST_BYTES).digest() if there else None
        for row, one, there in zip(codes, scales, present.tolist(), strict=True)
    ]
