"""A sample of the served requests as Parquet, with the version of every record that was read (`moontide.request_log`)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import pyarrow as pa

from moontide.errors import Misconfigured, Transient
from moontide.live import Service
from moontide.stores.offline_files import FileTree
from serving.served import Served, log_row, read_served

__all__ = ["Limits", "RequestLog", "Served", "log_row", "read_served"]

_log = logging.getLogger(__name__)
_DAY_US: Final = 86_400_000_000
_LEFT_SECONDS: Final = 86_400
#: How long `flush` and `close` wait for a disk that does not answer.
PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When files are written, and how much may wait for them.

    Args:
        rows: requests in a file, at most.
        seconds: longest that a request waits before its file is begun.
        bytes: of requests that wait, in memory; beyond it requests are lost.

    Raises:
        Misconfigured: fewer than 1 row, or nothing may wait.
    """

    rows: int = 256
    seconds: float = 60.0
    bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.rows < 1 or self.seconds <= 0 or self.bytes < 1:
            raise Misconfigured(f"request log: expected 1 or more rows, seconds and bytes above 0, got {self}")


class RequestLog:
    """Takes a share of the requests; a thread of its own writes them, whole files at a time. Thread-safe; close it.

    A request that cannot be written costs itself, never a ranking: `add` waits for no disk, and what is lost is counted in
    `lost`. The thread starts with the first request, so that a process may fork before it.

    Args:
        folder: where files go, below ``date=YYYY-MM-DD``.
        rate: share of the requests that is logged, 0 to 1.
        random: draws the sample and the ids of requests that have none.
        clock: microseconds UTC.
        limits: of files and memory.

    Attributes:
        written, lost: requests that are in files, and that will never be.

    Raises:
        Misconfigured: a rate outside 0 to 1, or a URI that cannot be opened.
    """

    def __init__(
        self, folder: str | Path, *, rate: float, random: Random, clock: Callable[[], int], limits: Limits | None = None
    ) -> None:
        if not 0 <= rate <= 1:
            raise Misconfigured(f"request log: expected a rate of 0 to 1, got {rate}")
        self._tree = FileTree.at(folder)
        self._rate, self._random, self._clock, self._limits = rate, random, clock, limits or Limits()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, pa.Table]] = deque()
        self._bytes = 0
        self._since = 0.0
        self._writing = self._asked = self._closed = False
        self._thread: threading.Thread | None = None
        self.written = self.lost = 0

    def sampled(self) -> bool:
        """Whether the next request is to be logged."""
        with self._changed:
            return self._random.random() < self._rate

    def now(self) -> int:
        """The clock, to be read before the request is."""
        return self._clock()

    def add(self, service: Service, served: Served, served_at: int, request_id: str | None = None) -> None:
        """Take one request.

        Args:
            service: what was served.
            served: how.
            served_at: microseconds UTC, before the first read.
            request_id: of the caller; None: drawn.
        """
        with self._changed:
            name = request_id or f"{self._random.getrandbits(128):032x}"
        try:
            row = log_row(service, served, served_at, name)
        except (pa.ArrowException, ValueError) as error:
            # Text of the caller that is no UTF-8, for one.
            self._lose(1, type(error).__name__)
            return
        with self._changed:
            if not self._closed and self._bytes + row.nbytes <= self._limits.bytes:
                self._since = self._since if self._waiting else time.monotonic()
                self._waiting.append((served_at // _DAY_US, row))
                self._bytes += row.nbytes
                self._start()
                if len(self._waiting) == 1 or len(self._waiting) >= self._limits.rows:
                    self._changed.notify_all()
                return
        self._lose(1, "too many wait for the disk, or the log is closed")

    def flush(self) -> None:
        """Write what waits; returns when it is written or lost, or after `PATIENCE_SECONDS`."""
        with self._changed:
            self._asked = bool(self._waiting)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None or not (self._waiting or self._writing), PATIENCE_SECONDS)

    def close(self) -> None:
        """`flush`; what a disk that does not answer still keeps waiting is lost. Again is fine."""
        self.flush()
        with self._changed:
            self._closed = True
            left = len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()
        self._lose(left, "the disk did not answer")

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a disk that hangs must not keep the process.
            self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            # What processes that were killed while they wrote have left.
            self._tree.sweep(self._clock() / 1e6 - _LEFT_SECONDS)
        while True:
            with self._changed:
                while not self._due():
                    if self._closed:
                        return
                    left = self._since + self._limits.seconds - time.monotonic()
                    self._changed.wait(max(left, 0.0) if self._waiting else None)
                count = min(len(self._waiting), self._limits.rows)
                taken = [self._waiting.popleft() for _ in range(count)]
                self._since = time.monotonic()
                self._asked = self._asked and bool(self._waiting)
                self._writing = True
            self._write(taken)
            with self._changed:
                self._bytes -= sum(row.nbytes for _, row in taken) if not self._closed else 0
                self._writing = False
                self._changed.notify_all()

    def _due(self) -> bool:
        """Whether a file is to be written now."""
        waiting, limits = len(self._waiting), self._limits
        old = time.monotonic() - self._since >= limits.seconds
        return waiting >= limits.rows or (waiting > 0 and (self._asked or old))

    def _write(self, taken: list[tuple[int, pa.Table]]) -> None:
        for day in sorted({day for day, _ in taken}):
            some = [row for at, row in taken if at == day]
            folder = datetime.fromtimestamp(day * _DAY_US // 1_000_000, UTC).date().isoformat()
            try:
                self._tree.commit(f"date={folder}", "requests", pa.concat_tables(some).combine_chunks())
            except Transient as error:
                self._lose(len(some), str(error))
            except Exception as error:  # noqa: BLE001 - the edge of the thread: without it nothing would be logged again
                self._lose(len(some), type(error).__name__)
            else:
                with self._changed:
                    self.written += len(some)

    def _lose(self, count: int, why: str) -> None:
        if count:
            with self._changed:
                self.lost += count
            _log.warning("%d logged requests are lost: %s", count, why)
