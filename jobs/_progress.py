"""Progress on stderr: done / total, rows a second, time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from jobs._cli import complain


def progress_line(phase: str, done: int, total: int, seconds: float) -> str:
    """``encode: 1,200/10,000 (12 %), 400 items/s, 22 s left``."""
    rate = done / seconds if seconds > 0 else 0.0
    share = 100 * done // total if total else 100
    left = f", {_duration((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{phase}: {done:,}/{total:,} ({share} %), {rate:,.0f} items/s{left}"


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7_200 else f"{whole // 3_600} h {whole % 3_600 // 60} min"


class Progress:
    """Prints while a phase runs, and what it came to: a context manager around the blocking call.

    Args:
        phase: its name.
        total: rows it will handle, at most.
        done: asked for the rows handled so far, from another thread.
        every: seconds between lines.
        clock: seconds, rising.
    """

    def __init__(
        self,
        phase: str,
        total: int,
        done: Callable[[], int],
        *,
        every: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._phase, self._total, self._done = phase, total, done
        self._every, self._clock = every, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._start = clock()

    def __enter__(self) -> Progress:
        self._start = self._clock()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self._total = min(self._done(), self._total)
            self._print()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._print()

    def _print(self) -> None:
        complain(progress_line(self._phase, min(self._done(), self._total), self._total, self._clock() - self._start))
