"""The one total order of writes to an item in a view, and its memcmp-comparable form.

Order: ``(source_version, event_timestamp, encoded_at, content_hash)``; views without versions leave the first 0 and use
``(event_timestamp, created)``. A strictly lower write is stale and loses, an equal one changes nothing.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

HASH_BYTES: Final = 16
KEY_BYTES: Final = 8 * 3 + HASH_BYTES
#: Event times further ahead of the clock than this are nonsense, not news, and are refused (microseconds).
MAX_AHEAD_US: Final = 5 * 60 * 1_000_000
_SIGN: Final = 1 << 63
_PACK = struct.Struct(f">QQQ{HASH_BYTES}s")


class Outcome(IntEnum):
    """What the store did with one write."""

    APPLIED = 0
    EQUAL = 1
    STALE = 2


class WriteOrder(NamedTuple):
    """Position of one write. Times are microseconds since the epoch, UTC; `content_hash` is 16 bytes."""

    source_version: int
    event_timestamp: int
    encoded_at: int
    content_hash: bytes = bytes(HASH_BYTES)

    def pack(self) -> bytes:
        """40 bytes whose unsigned byte order is this order."""
        return _PACK.pack(self.source_version + _SIGN, self.event_timestamp + _SIGN, self.encoded_at + _SIGN, self.content_hash)

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> WriteOrder:
        """Inverse of `pack`; reads the first 40 bytes."""
        version, event, encoded, digest = _PACK.unpack_from(packed)
        return cls(version - _SIGN, event - _SIGN, encoded - _SIGN, digest)


#: numpy twin of `WriteOrder.pack`; add 2**63 (flip the sign bit) to the signed values before storing them here.
ORDER_DTYPE: Final = np.dtype(
    [("source_version", ">u8"), ("event_timestamp", ">u8"), ("encoded_at", ">u8"), ("content_hash", "u1", (HASH_BYTES,))]
)


def biased(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Signed int64 as order-preserving uint64."""
    return values.astype(np.int64).view(np.uint64) ^ np.uint64(_SIGN)


def unbiased(values: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Inverse of `biased`."""
    return (values.astype(np.uint64) ^ np.uint64(_SIGN)).view(np.int64)


def compare(incoming: bytes | memoryview, stored: bytes | memoryview | None) -> Outcome:
    """What becomes of a record that starts with the order key `incoming` where `stored` is (None: nothing)."""
    if stored is None:
        return Outcome.APPLIED
    new, old = bytes(incoming[:KEY_BYTES]), bytes(stored[:KEY_BYTES])
    if new == old:
        return Outcome.EQUAL
    return Outcome.APPLIED if new > old else Outcome.STALE
