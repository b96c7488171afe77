"""The watchdog: a consumer that does not get on although there is something to do is restarted in place."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from streaming.state import State

RESTARTS: Final = "MOONTIDE_STREAM_RESTARTS"
_TICK: Final = 0.5
_log = logging.getLogger(__name__)


class Watchdog:
    """Watches the threads of a consumer.

    Args:
        state: where they say that they are alive.
        seconds: of silence after which only a restart helps.
        restart: replaces the process; does not return.
    """

    def __init__(self, state: State, seconds: float, restart: Callable[[], None]) -> None:
        self._state = state
        self._seconds = seconds
        self._restart = restart
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ends.set()

    def _run(self) -> None:
        while not self._ends.wait(_TICK):
            problems = self._state.stalled(self._seconds)
            if problems:
                _log.critical("stalled, restarting: %s", "; ".join(problems))
                self._restart()
                return


def restart_process(count: int) -> None:
    """Replace this process by a new run of its own command; nothing of it is committed that is not durable."""
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.flush()
    os.putenv(RESTARTS, str(count))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the very command it was started with
