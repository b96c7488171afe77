"""The places of a server's streams: so many at once, and an idle one gives way to one that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.http.problems import Problem


class Place:
    """What one stream holds.

    Attributes:
        lost: somebody else has it.
        at: monotonic seconds of the last progress.
    """

    def __init__(self, at: float, idle_seconds: float, monotonic: Callable[[], float]) -> None:
        self.at, self.lost = at, False
        self._idle, self._monotonic = idle_seconds, monotonic

    def goes_on(self) -> None:
        """The stream read or wrote something.

        Raises:
            Problem: it did not for so long that its place went to another.
        """
        if self.lost:
            raise Problem("timeout", f"stream: expected progress within {self._idle:g} s, got none; begin a new one")
        self.at = self._monotonic()


class Places:
    """Places for streams. Thread-safe.

    A thread that waits for its caller cannot be woken: Arrow has no call for it. So an idle stream keeps its thread, and loses
    its place when another stream wants one. As many may wait without a place as there are places; then the process is `worn_out`.

    Args:
        count: streams at once.
        idle_seconds: without progress, after which a place may go to another.
        monotonic: seconds.
    """

    def __init__(self, count: int, idle_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._count, self._idle, self._monotonic = count, idle_seconds, monotonic
        self._lock = threading.Lock()
        self._held: set[Place] = set()
        self._lost: set[Place] = set()

    @property
    def worn_out(self) -> bool:
        """Only a new process frees the threads that idle streams hold."""
        return len(self._lost) >= self._count

    @contextmanager
    def one(self) -> Iterator[Place]:
        """A place, until the stream ends.

        Raises:
            Problem: none is free.
        """
        place = self._take()
        try:
            yield place
        finally:
            with self._lock:
                self._held.discard(place)
                self._lost.discard(place)

    def _take(self) -> Place:
        with self._lock:
            now = self._monotonic()
            if len(self._held) >= self._count:
                oldest = min(self._held, key=lambda held: held.at)
                if now - oldest.at < self._idle or self.worn_out:
                    raise Problem("busy", f"streams: expected at most {self._count} at once, got more; try again")
                oldest.lost = True
                self._held.remove(oldest)
                self._lost.add(oldest)
            place = Place(now, self._idle, self._monotonic)
            self._held.add(place)
            return place
