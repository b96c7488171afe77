"""What is made durable at a checkpoint besides the followers: offline rows, dead letters, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import pyarrow as pa

from moontide.stores.base import EntityId, OnlineStore
from moontide.stores.indexer import order_keys
from moontide.stores.offline import OfflineTables
from moontide.views import ViewSpec
from streaming.audit import Audit
from streaming.message import Effects, Point, Result, Trace, Verdict

_CHUNK: Final = 5_000


class DeadLetterTopic(Protocol):
    """Where poison goes, as `streaming.dead_letters.DeadLetters`."""

    def send(self, result: Result) -> None:
        """Send one; known to have arrived after `wait`."""

    def wait(self) -> None:
        """Await what was sent; `Transient` where some of it did not arrive."""


class Checkpoint:
    """Everything since the last checkpoint that is to be durable before its offsets are committed. Used by one thread.

    Args:
        online: where the current records of touched entities are read.
        offline: the offline tables.
        dead_letters: the dead-letter topic.
        audit: where verdicts go.
        writer: names the offline files.
    """

    def __init__(
        self, online: OnlineStore, offline: OfflineTables, dead_letters: DeadLetterTopic, audit: Audit, writer: str
    ) -> None:
        self._online = online
        self._offline = offline
        self._dead_letters = dead_letters
        self._audit = audit
        self._writer = writer
        self._rows: dict[ViewSpec, list[pa.Table]] = {}
        self._touched: dict[ViewSpec, dict[EntityId, None]] = {}
        self._results: list[Result] = []
        self._unsent: list[Result] = []
        self._versions: dict[str, dict[str, bytes]] = {}

    @property
    def results(self) -> list[Result]:
        """Verdicts since the last checkpoint."""
        return self._results

    def add(self, effects: Effects) -> None:
        """Take effects that were written online; dead letters are sent at once and awaited in `write`."""
        for view, rows in effects.rows:
            self._rows.setdefault(view, []).append(rows)
        for view, ids in effects.touched:
            self._touched.setdefault(view, {}).update(dict.fromkeys(ids))
        self._results += effects.results
        for result in effects.results:
            if result.verdict is Verdict.DEAD:
                self._dead_letters.send(result)

    def versions(self, space_id: str) -> Mapping[str, bytes]:
        """Items of a space with the order key of the newest row of theirs that this checkpoint has written offline."""
        return self._versions.get(space_id, {})

    def write_offline(self, trace: Trace) -> None:
        """One append per view: the rows as they came, and the current records of what was touched.

        Raises:
            Transient: a store failed; call again, which may repeat rows.
        """
        for view in list(self._rows | self._touched):
            # The view is forgotten only after its append, so that a failure of the next one does not repeat it.
            parts = [*self._rows.get(view, ()), *self._current(view)]
            rows = pa.concat_tables(parts).combine_chunks() if parts else view.table.empty_table()
            if rows.num_rows:
                self._offline.append(view, rows, writer=self._writer)
                if view.space is not None:
                    keys = zip(rows["item_id"].to_pylist(), order_keys(view, rows), strict=True)
                    # Rows of one item need not be in rising order once records as they stand come behind.
                    self._versions.setdefault(view.space.id, {}).update(sorted(keys))
            self._rows.pop(view, None)
            self._touched.pop(view, None)
        trace(Point.OFFLINE_WRITTEN)

    def await_dead_letters(self) -> None:
        """Wait until every dead letter has arrived.

        Raises:
            Transient: one did not; call again.
        """
        for result in self._unsent:
            self._dead_letters.send(result)
        # Until all are known to be there, a failure sends all of them again: twice is better than never.
        self._unsent = [r for r in self._results if r.verdict is Verdict.DEAD]
        self._dead_letters.wait()
        self._unsent = []

    def write_audit(self, trace: Trace) -> None:
        """Append the verdicts, and forget them: they are durable.

        Raises:
            Transient: call again; lines may then be there twice.
        """
        self._audit.append(self._results)
        self._results, self._versions = [], {}
        trace(Point.AUDITED)

    def _current(self, view: ViewSpec) -> list[pa.Table]:
        ids = list(self._touched.get(view, ()))
        return [self._online.read_records(view, ids[at : at + _CHUNK]) for at in range(0, len(ids), _CHUNK)]
