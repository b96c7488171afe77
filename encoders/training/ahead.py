"""Beside the steps: batches drawn ahead by one thread, and signals that ask for an end."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import TypeVar

BatchT = TypeVar("BatchT")


@contextmanager
def drawn_ahead(draw: Callable[[int], BatchT], steps: range, ahead: int) -> Iterator[Callable[[], BatchT]]:
    """A function that gives the batch of each step of `steps` in order, while a thread draws the `ahead` next ones.

    ``ahead`` of 0 draws in the caller's thread. An error of `draw` is raised when its batch is asked for.
    """
    if ahead < 1:
        each = iter(steps)
        yield lambda: draw(next(each))
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="draw")
    left = iter(steps)
    waiting: deque[Future[BatchT]] = deque(pool.submit(draw, step) for step in islice(left, ahead))

    def take() -> BatchT:
        batch = waiting.popleft().result()
        waiting.extend(pool.submit(draw, step) for step in islice(left, 1))
        return batch

    try:
        yield take
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Names of SIGINT and SIGTERM as they arrive; the second one acts as it did before. Main thread only, else empty."""
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(signal.Signals(number).name)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield seen
    finally:
        restore()
