"""How far each partition has come, and for which assignment that holds."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streaming.message import Message


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Position(NamedTuple):
    """The offset to be read next, in one assignment of the partition; another assignment must not commit it."""

    offset: int
    assignment: int


Offsets = dict[Partition, Position]


class Progress:
    """Positions of what was wholly processed. Written by the worker and the loop, under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._assignment: dict[Partition, int] = {}
        self._positions: Offsets = {}
        self._count = 0

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """Partitions were given to this consumer."""
        with self._lock:
            self._count += 1
            for partition in partitions:
                self._assignment[partition] = self._count
                self._positions.pop(partition, None)

    def revoked(self, partitions: Iterable[Partition]) -> None:
        """Partitions are another's now: nothing of theirs is committed any more."""
        with self._lock:
            for partition in partitions:
                self._assignment.pop(partition, None)
                self._positions.pop(partition, None)

    def stamp(self, messages: Sequence[Message]) -> Offsets:
        """The positions after `messages` (in offset order per partition), for `done`; of partitions we have."""
        last = {Partition(m.topic, m.partition): m.offset + 1 for m in messages}
        with self._lock:
            return {p: Position(offset, self._assignment[p]) for p, offset in last.items() if p in self._assignment}

    def done(self, positions: Offsets) -> None:
        """All messages before these positions are processed; those of an earlier assignment say nothing."""
        with self._lock:
            for partition, position in positions.items():
                if self._assignment.get(partition) == position.assignment:
                    self._positions[partition] = position

    def snapshot(self) -> Offsets:
        """Positions as they stand."""
        with self._lock:
            return dict(self._positions)

    def valid(self, positions: Offsets) -> Offsets:
        """Those of `positions` that this consumer may still commit."""
        with self._lock:
            return {p: at for p, at in positions.items() if self._assignment.get(p) == at.assignment}
