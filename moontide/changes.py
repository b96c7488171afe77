"""The values of the change stream ``item-embeddings``: current embeddings and tombstones, for tables on ranking hosts.

Key: ``<space id>/<item id>`` in ASCII. Value, 50 + D bytes for a space of D dims, integers and floats as given, no padding:

====== ====== ==========================================================================
offset bytes  what
====== ====== ==========================================================================
0      1      format, 1
1      1      flags: bit 0 the item is deleted; the other bits are 0
2      40     the write order (`moontide.order.WriteOrder.pack`, big-endian, memcmp order)
42     4      scale, float32 little-endian
46     4      inv_norm, float32 little-endian
50     D      codes, int8; all 0 where there is no vector
====== ====== ==========================================================================

A topic keeps no order between writers, so a reader keeps the highest order key per item and drops the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import Poison
from moontide.names import is_id
from moontide.order import HASH_BYTES, KEY_BYTES, ORDER_DTYPE, WriteOrder, biased
from moontide.records import embeddings_of
from moontide.spaces import EmbeddingSpace

FORMAT: Final = 1
DELETED: Final = 1
HEAD_BYTES: Final = 2 + KEY_BYTES + 8


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """B records of one space.

    Attributes:
        embeddings: vectors with item ids; tombstones are not present.
        deleted: (B,) bool.
        orders: (B,) of `moontide.order.ORDER_DTYPE`; the bytes of a row compare as the write order does.
    """

    embeddings: Embeddings
    deleted: NDArray[np.bool_]
    orders: NDArray[Any]

    def order(self, row: int) -> WriteOrder:
        """The write order of one record."""
        return WriteOrder.unpack(self.orders[row].tobytes())


def change_key(space: EmbeddingSpace, item_id: str) -> bytes:
    """The key of an item's record."""
    return f"{space.id}/{item_id}".encode("ascii")


def split_key(key: bytes | None) -> tuple[str, str]:
    """Space id and item id of a key.

    Raises:
        Poison: not a key of this stream.
    """
    space_id, slash, item_id = (key or b"").decode("ascii", "replace").partition("/")
    if not slash or not space_id or not space_id.isascii() or not is_id(item_id):
        raise Poison(f"item-embeddings: expected a key '<space id>/<item id>', got {len(key or b'')} other bytes; skip it")
    return space_id, item_id


def pack_changes(space: EmbeddingSpace, rows: pa.Table) -> list[bytes]:
    """One value per row of `moontide.schemas.ITEM_EMBEDDING`, whose vectors are of `space`.

    Raises:
        ValueError: codes that are not `space.dim` bytes, or a content hash that is not 32 hex digits.
    """
    vectors = embeddings_of(space, rows)
    made = np.zeros(rows.num_rows, _dtype(space))
    made["format"] = FORMAT
    made["flags"] = rows.column("deleted").to_numpy().astype(np.uint8) * DELETED
    for name in ("source_version", "event_timestamp", "encoded_at"):
        made["order"][name] = biased(rows.column(name).cast(pa.int64()).to_numpy())
    made["order"]["content_hash"] = _digests(rows.column("content_hash").to_pylist())
    made["scale"], made["inv_norm"], made["codes"] = vectors.scale, vectors.inv_norm, vectors.codes
    packed, size = made.tobytes(), made.itemsize
    return [packed[at : at + size] for at in range(0, len(packed), size)]


def unpack_changes(space: EmbeddingSpace, item_ids: Sequence[str], values: Sequence[bytes]) -> Changes:
    """B values of one space, in order, without a Python object per code.

    Raises:
        Poison: a value of another format, length or flags, or with a norm that its codes do not have.
    """
    kind = _dtype(space)
    for item_id, value in zip(item_ids, values, strict=True):
        if len(value) != kind.itemsize or value[0] != FORMAT or value[1] & ~DELETED:
            head = f"format {value[0]}, {len(value)} bytes" if value else "0 bytes"
            raise Poison(
                f"{space.id}/{item_id}: expected format {FORMAT} and {kind.itemsize} bytes, got {head}; skip it or upgrade"
            )
    raw = np.frombuffer(b"".join(values), kind)
    codes = np.ascontiguousarray(raw["codes"])
    vectors = Embeddings.from_codes(space, codes, raw["scale"].astype(np.float32), ids=list(item_ids))
    deleted = (raw["flags"] & DELETED).astype(np.bool_)
    wrong = np.flatnonzero((vectors.inv_norm != raw["inv_norm"]) | (deleted & vectors.present))
    if len(wrong):
        raise Poison(
            f"{space.id}/{item_ids[int(wrong[0])]}: expected the norm of its codes, got another; the value is damaged, skip it"
        )
    return Changes(vectors, deleted, np.ascontiguousarray(raw["order"]))


def unpack_change(space: EmbeddingSpace, key: bytes | None, value: bytes) -> Changes:
    """One record, as B = 1.

    Raises:
        Poison: as `split_key` and `unpack_changes`, or a key of another space.
    """
    space_id, item_id = split_key(key)
    if space_id != space.id:
        raise Poison(f"item-embeddings: expected a key of {space.id}, got one of {space_id[:40]}; route records by space")
    return unpack_changes(space, [item_id], [value])


def _dtype(space: EmbeddingSpace) -> np.dtype[Any]:
    return np.dtype(
        [
            ("format", "u1"),
            ("flags", "u1"),
            ("order", ORDER_DTYPE),
            ("scale", "<f4"),
            ("inv_norm", "<f4"),
            ("codes", "i1", (space.dim,)),
        ]
    )


def _digests(hashes: Sequence[str]) -> NDArray[np.uint8]:
    raw = bytes.fromhex("".join(hashes))
    if len(raw) != len(hashes) * HASH_BYTES or any(len(digest) != 2 * HASH_BYTES for digest in hashes):
        raise ValueError(f"pack_changes: expected content hashes of {2 * HASH_BYTES} hex digits, got others")
    return np.frombuffer(raw, np.uint8).reshape(len(hashes), HASH_BYTES)
