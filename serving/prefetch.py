"""User sides read ahead, while retrieval still runs, and kept under the id of the request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from moontide.errors import Misconfigured
from serving.reading import UserAhead

SECONDS: Final = 2.0
WAIT_SECONDS: Final = 0.02
ENTRIES: Final = 1_000


class Prefetch(StrEnum):
    """Where the user side of a request came from.

    ``hit``: read ahead. ``late``: reading ahead was still under way when the features were asked for. ``stale``: read ahead too
    long ago, so read again. ``miss``: nothing under that request id, or another user's or service's. ``off``: not asked for.
    """

    HIT = "hit"
    STALE = "stale"
    LATE = "late"
    MISS = "miss"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class PrefetchKey:
    """What a user side is good for: one request of one user to one service."""

    request_id: str
    user_id: str
    service: str


@dataclass(slots=True)
class _Entry:
    key: PrefetchKey
    started: float
    side: UserAhead | None = None
    done: threading.Event = field(default_factory=threading.Event)


class PrefetchCache:
    """Bounded, in memory. Thread-safe.

    Args:
        clock: seconds that only rise (`time.monotonic`).
        seconds: age after which an entry is stale.
        wait_seconds: how long `take` waits for an entry that is still being read.
        entries: how many are kept; the oldest goes first.

    Raises:
        Misconfigured: a limit below 0, or fewer than 1 entry.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        seconds: float = SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        entries: int = ENTRIES,
    ) -> None:
        if seconds < 0 or wait_seconds < 0 or entries < 1:
            raise Misconfigured(
                f"prefetch: expected limits of 0 or more and 1 or more entries, got {seconds}, {wait_seconds}, {entries}"
            )
        self._clock = clock
        self._seconds, self._wait, self._room = seconds, wait_seconds, entries
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def fill(self, key: PrefetchKey, read: Callable[[], UserAhead]) -> None:
        """Run `read` and keep what it returns under `key`; what was there under that request id is replaced.

        Raises:
            whatever `read` raises; nothing is kept then.
        """
        entry = _Entry(key, self._clock())
        with self._lock:
            self._entries.pop(key.request_id, None)
            self._entries[key.request_id] = entry
            self._purge(entry.started)
        try:
            entry.side = read()
        finally:
            entry.done.set()

    def take(self, key: PrefetchKey) -> tuple[UserAhead | None, Prefetch]:
        """What is kept under `key`; it stays, for a request that asks in several parts. None: read it yourself."""
        with self._lock:
            entry = self._entries.get(key.request_id)
        if entry is None or entry.key != key:
            return None, Prefetch.MISS
        outcome = Prefetch.HIT if entry.done.is_set() else Prefetch.LATE
        if outcome is Prefetch.LATE:
            entry.done.wait(self._wait)
        if self._clock() - entry.started > self._seconds:
            return None, Prefetch.STALE
        if entry.side is None:
            return None, outcome if outcome is Prefetch.LATE else Prefetch.MISS
        return entry.side, outcome

    def _purge(self, now: float) -> None:
        """Forget what is stale, and the oldest of too many."""
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if len(self._entries) <= self._room and now - oldest.started <= self._seconds:
                return
            self._entries.popitem(last=False)
