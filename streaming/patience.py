"""Trying again what failed for a reason that may pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from moontide.errors import Transient
from streaming.metrics import Metrics
from streaming.state import State

T = TypeVar("T")
#: Longest pauses. Each is drawn from the upper half, so that consumers that lost a store together do not come back together.
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 5.0
_log = logging.getLogger(__name__)


class GivenUp(Exception):
    """It was told to stop before it came through: a replay does the work."""


class Patience:
    """Calls that may fail for a while. One per thread.

    Args:
        state: where the thread says that it waits, and learns that it is to give up; its `random` draws the pauses.
        metrics: counts the failures.
        thread: name of the thread.
    """

    def __init__(self, state: State, metrics: Metrics, thread: str) -> None:
        self._state = state
        self._metrics = metrics
        self._thread = thread
        self._longest = FIRST_PAUSE

    def run(self, sink: str, call: Callable[[], T], *, given_up: Callable[[], bool] = lambda: False) -> T:
        """The result of `call`, which may be called any number of times.

        Raises:
            GivenUp: it still failed when it was told to stop.
        """
        while True:
            self._state.beat(self._thread)
            try:
                result = call()
            except Transient as error:
                self.failed(sink, error, given_up=given_up)
                continue
            self.came_through(sink)
            return result

    def failed(self, sink: str, error: Transient, *, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait before the next try: between half and all of 0.1 s, of twice as much after each failure, of 5 s at most.

        Raises:
            GivenUp: told to stop.
        """
        self._metrics.failed(sink, error)
        self._metrics.waiting(sink)
        self._state.waiting[sink] = " ".join(str(error).split())[:300]
        left = self._state.random.uniform(self._longest / 2, self._longest)
        _log.warning("%s failed, trying again in %.2f s", sink, left, extra={"sink": sink, "reason": str(error)[:300]})
        self._longest = min(self._longest * 2, LAST_PAUSE)
        while left > 0:
            self._state.beat(self._thread)
            if given_up() or self._state.giving_up.wait(min(left, 0.2)):
                raise GivenUp(f"{sink}: {error}") from error
            left -= 0.2

    def came_through(self, sink: str) -> None:
        """The sink works: the next failure waits shortly again."""
        self._longest = FIRST_PAUSE
        if self._state.waiting.pop(sink, None) is not None:
            self._metrics.waiting(None)
            _log.info("%s works again", sink, extra={"sink": sink})
