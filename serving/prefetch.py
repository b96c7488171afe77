"""User sides read ahead, while retrieval still runs, and kept under the id of the request."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from moontide.errors import Misconfigured
from serving.prefetch_folder import PrefetchFolder
from serving.prefetch_key import PrefetchKey
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


@dataclass(slots=True)
class _Entry:
    key: PrefetchKey
    started: float
    ahead: UserAhead | None = None
    done: threading.Event = field(default_factory=threading.Event)


class PrefetchCache:
    """User sides by request id: bounded, each for a short time. Thread-safe.

    Args:
        clock: seconds that only rise; shared by all processes where there is a folder (`time.monotonic`).
        seconds: age after which an entry is stale.
        wait_seconds: how long `take` waits for an entry that is still being read.
        entries: how many are kept in memory; the oldest goes first.
        folder: where other processes of this host find what this one read, and it what they read; None: memory alone.

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
        folder: PrefetchFolder | None = None,
    ) -> None:
        if seconds < 0 or wait_seconds < 0 or entries < 1:
            raise Misconfigured(
                f"prefetch: expected limits of 0 or more and 1 or more entries, got {seconds}, {wait_seconds}, {entries}"
            )
        self._clock = clock
        self._seconds, self._wait, self._room = seconds, wait_seconds, entries
        self._folder = folder
        self._purged_at = clock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._fresh: deque[_Entry] = deque()
        self._lock = threading.Lock()

    def fill(self, key: PrefetchKey, read: Callable[[], UserAhead]) -> None:
        """Run `read` and keep what it returns under `key`; what was there under that request id is replaced.

        What `read` raises is raised, and nothing is kept then.
        """
        entry = _Entry(key, self._clock())
        with self._lock:
            self._entries.pop(key.request_id, None)
            self._entries[key.request_id] = entry
            self._fresh.append(entry)
            purge = self._purge(entry.started)
        try:
            entry.ahead = ahead = read()
        finally:
            entry.done.set()
        if self._folder is not None:
            self._folder.put(key, ahead, entry.started)
            if purge:
                self._folder.purge(self._seconds)

    def take(self, key: PrefetchKey) -> tuple[UserAhead | None, Prefetch]:
        """What is kept under `key`; it stays, for a request that asks in several parts. None: read it yourself."""
        with self._lock:
            entry = self._entries.get(key.request_id)
        if entry is None or entry.key != key:
            return self._shared(key)
        outcome = Prefetch.HIT if entry.done.is_set() else Prefetch.LATE
        if outcome is Prefetch.LATE:
            entry.done.wait(self._wait)
        ahead = entry.ahead
        if not self._in_time(entry.started):
            return None, Prefetch.STALE
        if ahead is None:
            return None, outcome if outcome is Prefetch.LATE else Prefetch.MISS
        return ahead, outcome

    def _shared(self, key: PrefetchKey) -> tuple[UserAhead | None, Prefetch]:
        found = self._folder.get(key) if self._folder is not None else None
        if found is None:
            return None, Prefetch.MISS
        ahead, started = found
        return (ahead, Prefetch.HIT) if self._in_time(started) else (None, Prefetch.STALE)

    def _in_time(self, started: float) -> bool:
        # Files outlive a clock that begins anew, and then seem to be of the future.
        return 0 <= self._clock() - started <= self._seconds

    def _purge(self, now: float) -> bool:
        """Free what is stale and forget the oldest of too many; whether it is time to purge the folder."""
        while self._fresh and now - self._fresh[0].started > self._seconds:
            self._fresh.popleft().ahead = None
        while len(self._entries) > self._room:
            self._entries.popitem(last=False)
        while len(self._fresh) > self._room:
            self._fresh.popleft()
        due = now - self._purged_at > self._seconds
        if due:
            self._purged_at = now
        return due
