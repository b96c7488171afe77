"""Keeping vector tables fresh: load them, then follow the change stream, or look at the store again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from moontide.errors import Transient
from moontide.stores.base import OnlineStore
from moontide.stores.kv import Clock
from serving.table_changes import Record, changes_of
from serving.table_load import load
from serving.table_writer import TableWriter

_log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.2
#: Most between two looks at the whole store while a change stream is followed, however long one takes.
RELOAD_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 60.0
_PAUSE: Final = 4


class Source(Protocol):
    """A change stream, as `serving.table_changes.ChangeSource`."""

    def find_partitions(self) -> None:
        """Take up what is new, from its end."""

    def poll(self, seconds: float) -> list[Record]:
        """What has arrived."""

    def lag(self) -> int:
        """Records still to be polled; raises where that is not known."""

    def close(self) -> None:
        """Leave."""


class TableKeeper:
    """Keeps the tables of some spaces fresh. Used by one thread.

    The whole store is looked at every `refresh_seconds`, or, where it is so large that this would keep a core busy, after a pause
    of four times what looking took: jobs, Feast and deletions write past the change stream. What comes over the stream does not
    wait for that.

    Args:
        tables: one writer a space.
        store: the arbiter.
        open_source: opens the change stream at its end; None: there is none.
        clock: microseconds UTC.
        refresh_seconds: between two looks at the whole store.

    Attributes:
        unreadable: records of the change stream that could not be read.
    """

    def __init__(
        self,
        tables: Sequence[TableWriter],
        store: OnlineStore,
        open_source: Callable[[], Source] | None,
        clock: Clock,
        *,
        refresh_seconds: float,
    ) -> None:
        self._tables = tables
        self._store = store
        self._open_source = open_source
        self._clock = clock
        self._refresh = refresh_seconds
        self._source: Source | None = None
        self._connect_at = self._polled_at = 0
        #: Whether all changes since the tables were last loaded are in them, but for those the stream still holds.
        self._current = False
        self.unreadable = 0

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. What fails for a while is tried again; meanwhile the tables' staleness rises.

        Raises:
            SpaceMismatch: the store holds vectors of another encoder.
            Misconfigured: unsafe settings or refused credentials of the change stream.
            Transient: the file of a table was removed or replaced; make new writers.
        """
        try:
            while not stop.is_set():
                for table in self._tables:
                    table.require_file()
                try:
                    self._round(stop)
                except Transient as error:
                    _log.warning("vector tables: %s", error)
                    self._close()
                    stop.wait(_RETRY_SECONDS)
        finally:
            self._close()

    def _round(self, stop: threading.Event) -> None:
        """Load, then follow until the next load is due."""
        if any([table.renew() for table in self._tables]):
            self._current = False
        # The stream's end is found before the store is read, so that no change falls between the two.
        self._connect()
        started = self._clock()
        if not all(load(self._store, table, stop, self._between) for table in self._tables):
            return
        ended = self._clock()
        again = max(self._refresh, _PAUSE * max(ended - started, 0) / 1e6)
        if self._source is None:
            for table in self._tables:
                table.polled(at=started)
            stop.wait(again)
            return
        self._current = True
        self._step(self._source, 0)
        while not stop.is_set() and 0 <= self._clock() - ended < min(again, RELOAD_SECONDS) * 1e6:
            self._step(self._source, POLL_SECONDS)

    def _between(self) -> None:
        """A store of millions takes its time, and changes are not to wait for it."""
        if self._source is not None and self._clock() - self._polled_at >= POLL_SECONDS * 1e6:
            self._step(self._source, 0)

    def _connect(self) -> None:
        if self._open_source is None or (self._source is None and self._clock() < self._connect_at):
            return
        try:
            if self._source is None:
                self._source = self._open_source()
                self._current = False
            self._source.find_partitions()
        except Transient as error:
            _log.warning("vector tables look at the store every %g s, without a change stream: %s", self._refresh, error)
            self._connect_at = self._clock() + int(_CONNECT_SECONDS * 1e6)
            self._close()

    def _step(self, source: Source, seconds: float) -> None:
        records = source.poll(seconds)
        for table in self._tables:
            changes, bad = changes_of(table.space, records)
            self.unreadable += bad
            if changes is not None:
                packed = changes.orders.tobytes()
                size = changes.orders.itemsize
                table.upsert(changes.embeddings, [packed[at : at + size] for at in range(0, len(packed), size)])
        lag = source.lag()
        if self._current:
            for table in self._tables:
                table.polled(lag=lag)
        self._polled_at = self._clock()

    def _close(self) -> None:
        self._current = False
        if self._source is not None:
            self._source.close()
            self._source = None
