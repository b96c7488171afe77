"""A user's behaviour sequence: merged, never overwritten.

Every path (batch, nearline, stock Feast) unions by (time, item, action) and keeps the last L in that order, so paths that saw
the same behaviours agree on the content and on its version, whatever order they saw them in.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from moontide.errors import Misconfigured

_COUNT: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True, order=True)
class Behaviour:
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
        """Canonical bytes: count, then times (int64), then item ids and actions, each with a length."""
        rows = self.behaviours
        parts = [_COUNT.pack(len(rows)), struct.pack(f"<{len(rows)}q", *(b.time for b in rows))]
        for b in rows:
            for text in (b.item_id.encode(), b.action.encode()):
                parts += (_COUNT.pack(len(text)), text)
        return b"".join(parts)

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> BehaviourSequence:
        """Inverse of `pack`.

        Raises:
            Misconfigured: the bytes end too early (a record of another format).
        """
        try:
            (count,) = _COUNT.unpack_from(packed, 0)
            times = struct.unpack_from(f"<{count}q", packed, 4)
            at, texts = 4 + 8 * count, []
            for _ in range(2 * count):
                (size,) = _COUNT.unpack_from(packed, at)
                texts.append(bytes(packed[at + 4 : at + 4 + size]).decode())
                at += 4 + size
        except (struct.error, UnicodeDecodeError) as error:
            raise Misconfigured(f"sequence record: expected a packed sequence, got {len(packed)} bytes: {error}") from error
        return cls(tuple(Behaviour(t, texts[2 * n], texts[2 * n + 1]) for n, t in enumerate(times)))
