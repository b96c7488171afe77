"""A user's behaviour sequence: merged, never overwritten.

Every path (batch, nearline, stock Feast) unions by (time, item, action) and keeps the last L in that order, so paths that saw
the same behaviours agree on the content and on its version, whatever order they saw them in.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from moontide.errors import Misconfigured

_COUNT: Final = struct.Struct("<I")


class Behaviour(NamedTuple):
    """One behaviour of one user; ordered by (time, item, action). `time` is microseconds since the epoch, UTC."""

    time: int
    item_id: str
    action: str


@dataclass(frozen=True, slots=True)
class BehaviourSequence:
    """The last L distinct behaviours, oldest first."""

    behaviours: tuple[Behaviour, ...] = ()

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Items in order, oldest first; an item may occur often."""
        return tuple(b.item_id for b in self.behaviours)

    @property
    def version(self) -> int:
        """Signed 64-bit hash of the content: equal content, equal version, on every path."""
        digest = hashlib.blake2b(self.pack(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    @property
    def last_time(self) -> int:
        """Time of the newest behaviour; 0 for an empty sequence."""
        return self.behaviours[-1].time if self.behaviours else 0

    def merge(self, others: Iterable[Behaviour], *, length: int) -> BehaviourSequence:
        """Union with `others`, cut to the newest `length`."""
        return BehaviourSequence(tuple(sorted({*self.behaviours, *others})[-length:]))

    def pack(self) -> bytes:
        """Canonical bytes: count, times (int64), byte lengths of each item id and action (uint32), their texts (UTF-8)."""
        rows = self.behaviours
        texts = [text.encode() for b in rows for text in b[1:]]
        times = struct.pack(f"<I{len(rows)}q", len(rows), *(b.time for b in rows))
        return b"".join((times, struct.pack(f"<{len(texts)}I", *map(len, texts)), *texts))

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> BehaviourSequence:
        """Inverse of `pack`.

        Raises:
            Misconfigured: the bytes end early or late (a record of another format).
        """
        try:
            (count,) = _COUNT.unpack_from(packed, 0)
            times = struct.unpack_from(f"<{count}q", packed, _COUNT.size)
            start = _COUNT.size + 8 * count
            ends = list(accumulate(struct.unpack_from(f"<{2 * count}I", packed, start), initial=start + 8 * count))
            if ends[-1] != len(packed):
                raise ValueError(f"texts up to byte {ends[-1]}")
            raw = bytes(packed)
            texts = [raw[a:b].decode() for a, b in pairwise(ends)]
        except (struct.error, ValueError) as error:
            raise Misconfigured(f"sequence record: expected a packed sequence, got {len(packed)} bytes: {error}") from error
        return cls(tuple(map(Behaviour, times, texts[::2], texts[1::2])))
