"""A user's behaviour sequence: merged, never overwritten.

Every path (batch, nearline, stock Feast) unions by (time, item, action) and keeps the last L in that order, so paths that saw
the same behaviours agree on the content and on its version, whatever order they saw them in.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.packed_ids import PackedIds

_COUNT: Final = struct.Struct("<I")


class Behaviour(NamedTuple):
    """One behaviour of one user; ordered by (time, item, action). `time` is microseconds since the epoch, UTC."""

    time: int
    item_id: str
    action: str


class _Parsed(NamedTuple):
    """Packed bytes cut up: when, then the bounds of item id and action in turn."""

    times: NDArray[np.int64]
    text: bytes
    bounds: NDArray[np.int64]

    def every(self, first: int) -> PackedIds:
        """The item ids (0) or the actions (1)."""
        return PackedIds(self.text, self.bounds[:-1][first::2], self.bounds[1:][first::2])


class BehaviourSequence:
    """The last L distinct behaviours, oldest first. Immutable; equal where the behaviours are.

    One that was unpacked makes a `Behaviour` of each only when `behaviours` is asked for: a ranking request needs item ids alone.

    Args:
        behaviours: in order, each once.
    """

    __slots__ = ("_behaviours", "_item_ids", "_packed", "_parsed", "_version")

    def __init__(self, behaviours: tuple[Behaviour, ...] = ()) -> None:
        self._behaviours: tuple[Behaviour, ...] | None = behaviours
        self._item_ids: tuple[str, ...] | None = None
        self._packed: bytes | None = None
        self._parsed: _Parsed | None = None
        self._version: int | None = None

    @property
    def behaviours(self) -> tuple[Behaviour, ...]:
        """All of them, oldest first."""
        if self._behaviours is None:
            parsed = self._cut()
            self._behaviours = tuple(map(Behaviour, parsed.times.tolist(), parsed.every(0).strings(), parsed.every(1).strings()))
        return self._behaviours

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Items in order, oldest first; an item may occur often."""
        if self._item_ids is None:
            if self._behaviours is None:
                self._item_ids = tuple(self._cut().every(0).strings())
            else:
                self._item_ids = tuple(b.item_id for b in self._behaviours)
        return self._item_ids

    def packed_items(self, length: int) -> PackedIds:
        """The items of the newest `length` behaviours (at least 1), oldest first."""
        return self._cut().every(0).newest(length)

    @property
    def version(self) -> int:
        """Signed 64-bit hash of the content: equal content, equal version, on every path."""
        if self._version is None:
            digest = hashlib.blake2b(self.pack(), digest_size=8).digest()
            self._version = int.from_bytes(digest, "big", signed=True)
        return self._version

    @property
    def last_time(self) -> int:
        """Time of the newest behaviour; 0 for an empty sequence."""
        if self._behaviours is not None:
            return self._behaviours[-1].time if self._behaviours else 0
        times = self._cut().times
        return int(times[-1]) if len(times) else 0

    def merge(self, others: Iterable[Behaviour], *, length: int) -> BehaviourSequence:
        """Union with `others`, cut to the newest `length`."""
        return BehaviourSequence(tuple(sorted({*self.behaviours, *others})[-length:]))

    def pack(self) -> bytes:
        """Canonical bytes: count, times (int64), byte lengths of each item id and action (uint32), their texts (UTF-8)."""
        if self._packed is None:
            rows = self.behaviours
            texts = [text.encode() for b in rows for text in b[1:]]
            times = struct.pack(f"<I{len(rows)}q", len(rows), *(b.time for b in rows))
            self._packed = b"".join((times, struct.pack(f"<{len(texts)}I", *map(len, texts)), *texts))
        return self._packed

    @classmethod
    def unpack(cls, packed: bytes | memoryview, *, version: int | None = None) -> BehaviourSequence:
        """Inverse of `pack`.

        Args:
            packed: the bytes.
            version: `version` of these bytes, where it is stored beside them; None: hashed when asked for.

        Raises:
            Misconfigured: the bytes end early or late (a record of another format).
        """
        made = cls()
        made._behaviours, made._packed, made._version = None, bytes(packed), version
        made._cut()
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BehaviourSequence):
            return NotImplemented
        if self._packed is not None and other._packed is not None:
            return self._packed == other._packed
        return self.behaviours == other.behaviours

    def __hash__(self) -> int:
        return hash(self.behaviours)

    def __repr__(self) -> str:
        return f"BehaviourSequence(behaviours={self.behaviours!r})"

    def _cut(self) -> _Parsed:
        """Where everything lies in the packed bytes."""
        if self._parsed is None:
            self._parsed = _cut(self.pack())
        return self._parsed


def _cut(packed: bytes) -> _Parsed:
    try:
        (count,) = _COUNT.unpack_from(packed, 0)
        times = np.frombuffer(packed, "<i8", count, _COUNT.size)
        at = _COUNT.size + 8 * count
        sizes = np.frombuffer(packed, "<u4", 2 * count, at)
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        text = packed[at + sizes.nbytes :]
        if bounds[-1] != len(text):
            raise ValueError(f"texts of {bounds[-1]} bytes")
        if not text.isascii():
            PackedIds(text, bounds[:-1], bounds[1:]).strings()
    except (struct.error, ValueError) as error:
        raise Misconfigured(f"sequence record: expected a packed sequence, got {len(packed)} bytes: {error}") from error
    return _Parsed(times, text, bounds)
