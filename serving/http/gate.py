"""How many requests are worked on, how many may wait, and for how long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serving.http.problems import Problem

T = TypeVar("T")


class Gate:
    """A few threads that read, so that a store that hangs stops neither probes nor time limits.

    Args:
        threads: works at once.
        waiting: works that may wait for a thread.
        seconds: a caller waits for its work, from `run` on. A work that is running then goes on and keeps its thread.
    """

    def __init__(self, *, threads: int, waiting: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._room = threads + waiting
        self._seconds = seconds
        self._inside = 0
        self._lock = threading.Lock()

    @property
    def inside(self) -> int:
        """Works that run or wait."""
        return self._inside

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises.

        Raises:
            Problem: too many wait, or it took too long.
        """
        waiting = asyncio.wrap_future(self.start(work))
        done, _ = await asyncio.wait({waiting}, timeout=self._seconds)
        if not done:
            waiting.cancel()
            raise Problem("timeout", f"answer: expected within {self._seconds:g} s, got none; ask for less, or try again")
        return waiting.result()

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` as soon as a thread is free.

        Raises:
            Problem: too many wait.
        """
        with self._lock:
            if self._inside >= self._room:
                raise Problem("busy", f"requests: expected at most {self._room} at once in this process, got more; try again")
            self._inside += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._left)
        return future

    def close(self) -> None:
        """Wait for what runs; what has not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _left(self, _: Future[T]) -> None:
        with self._lock:
            self._inside -= 1
