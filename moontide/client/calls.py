"""Which server a call goes to, how often, and for how long. Sends nothing and sleeps nowhere: both clients share it."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from moontide.client.wire import Unavailable
from moontide.errors import Misconfigured

#: One request may be lost with a connection that the server just closed: no reason to avoid it.
_FAILURES: Final = 3
_SCHEMES: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Patience:
    """How failures are borne.

    Attributes:
        attempts: most requests of one call.
        first_wait, longest_wait: seconds before the second round over the addresses, doubled for each round after it, times a
            random share of one ("full jitter"), so that callers that failed together do not come back together.
        avoid: seconds in which an address that failed is asked only where no other is left; then one call tries it.
        clock: seconds, never backwards.
        random: evenly in [0, 1).
    """

    attempts: int = 4
    first_wait: float = 0.02
    longest_wait: float = 0.5
    avoid: float = 5.0
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random


class Addresses:
    """Servers and which of them lately failed. Thread-safe.

    A key goes to the address with the highest hash of both (rendezvous hashing, Thaler and Ravishankar 1998): the same one in
    every process, and with an address added or removed only the keys of that address move.

    Args:
        urls: base URLs, ``http`` or ``https``.

    Raises:
        Misconfigured: none, one twice, or not such URLs.
    """

    def __init__(self, urls: Sequence[str], patience: Patience) -> None:
        if isinstance(urls, str):
            urls = [urls]
        self.urls = tuple(url.rstrip("/") for url in urls)
        if not self.urls or len(set(self.urls)) < len(self.urls) or not all(u.startswith(_SCHEMES) for u in self.urls):
            raise Misconfigured(f"client: expected http:// or https:// URLs, each once, got {list(urls)}")
        self._patience = patience
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()
        self._avoided: dict[str, float] = {}

    def ranked(self, key: str) -> list[str]:
        """Every address, the one that `key` belongs to first."""
        if len(self.urls) == 1:
            return list(self.urls)
        return sorted(self.urls, key=lambda url: _weight(url, key), reverse=True)

    def pick(self, key: str, tried: Counter[str]) -> str:
        """The first address of `key` among those tried least, avoided ones last."""
        order = self.ranked(key)
        least = min(tried[url] for url in order)
        left = [url for url in order if tried[url] == least]
        if not self._avoided:
            return left[0]
        now = self._patience.clock()
        with self._lock:
            for url in left:
                until = self._avoided.get(url)
                if until is not None and until > now:
                    continue
                if until is not None:
                    # One call finds out; the others go on avoiding it until that one has come back.
                    self._avoided[url] = now + self._patience.avoid
                return url
        return left[0]

    def worked(self, url: str) -> None:
        """It answered."""
        if self._failures or self._avoided:
            with self._lock:
                self._failures.pop(url, None)
                self._avoided.pop(url, None)

    def failed(self, url: str, *, gone: bool, seconds: float | None = None) -> None:
        """It did not answer.

        Args:
            gone: nothing listens there: avoided at once; else after the third failure in a row.
            seconds: how long it wants to be left alone, where it says so.
        """
        with self._lock:
            self._failures[url] += 1
            if gone or seconds is not None or self._failures[url] >= _FAILURES:
                rest = self._patience.avoid if seconds is None else min(seconds, self._patience.avoid)
                self._avoided[url] = self._patience.clock() + rest


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: the address, seconds to wait before it, and seconds it may take."""

    url: str
    wait: float
    seconds: float


class Call:
    """The attempts of one call.

    Args:
        seconds: within which all of it, waits included, has to be over.
    """

    def __init__(self, addresses: Addresses, key: str, seconds: float, patience: Patience) -> None:
        self._addresses = addresses
        self._key = key
        self._patience = patience
        self._ends = patience.clock() + seconds
        self._tried: Counter[str] = Counter()
        self._failure: Unavailable | None = None

    def next(self) -> Attempt:
        """The next attempt.

        Raises:
            Unavailable: the last failure, where no attempt or no time is left.
        """
        left = self._ends - self._patience.clock()
        url = self._addresses.pick(self._key, self._tried)
        wait = self._wait(url)
        if self._failure is not None and (wait >= left or self._tried.total() >= self._patience.attempts):
            raise self._failure
        self._tried[url] += 1
        left = max(left - wait, 0.0)
        others = len(self._addresses.urls) > len(self._tried)
        return Attempt(url, wait, left / 2 if others else left)

    def answered(self, attempt: Attempt) -> None:
        """The server is there, whatever it said."""
        self._addresses.worked(attempt.url)

    def failed(self, attempt: Attempt, failure: Unavailable, gone: bool = False) -> None:
        """Note a failure; `next` raises it where it was the last."""
        self._addresses.failed(attempt.url, gone=gone, seconds=failure.retry_after)
        self._failure = failure

    def _wait(self, url: str) -> float:
        """An address not asked yet is asked at once; one asked before, later."""
        rounds = self._tried[url]
        if not rounds or self._failure is None:
            return 0.0
        longest = min(self._patience.longest_wait, self._patience.first_wait * 2.0 ** (rounds - 1))
        return max(longest * self._patience.random(), self._failure.retry_after or 0.0)


def unanswered(path: str, attempt: Attempt, error: Exception) -> Unavailable:
    """The failure of an attempt whose connection failed."""
    said = " ".join(str(error).split()) or type(error).__name__
    failure = Unavailable(
        f"{path} at {attempt.url}: expected an answer within {attempt.seconds:.3f} s, got none ({said}); "
        "ask again, or raise timeout"
    )
    failure.__cause__ = error
    return failure


def _weight(url: str, key: str) -> bytes:
    return hashlib.blake2b(f"{url} {key}".encode(), digest_size=8).digest()
