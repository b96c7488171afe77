"""`VectorTables`: vectors from tables in shared memory, and from the store what is not in one (B ids, D dims)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import Transient
from moontide.row_index import Ids, RowIndex, picked, rows_over, texts
from moontide.spaces import EmbeddingSpace
from moontide.stores.kv import Clock, wall_clock
from serving.reading import Keys, Vectors, numbered
from serving.table_layout import TableFile, table_path

#: A writer that is kept from running in the middle of a row is waited for so often; then the store is asked.
_ATTEMPTS: Final = 50
_BLOCK_ROWS: Final = 4_096
#: Microseconds by which a writer's clock may seem ahead; beyond, the clock was put back, and nothing is known of the age.
_AHEAD: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class TableState:
    """How a table is doing, for metrics and probes; times are microseconds UTC, 0 for never.

    Attributes:
        space: id of its space.
        rows, capacity: items in it, tombstones included, and the most it takes.
        loaded: whether everything the store holds has been looked at since its writer started.
        refused: writes for which there was no room.
        lag: records of the change stream still to be read at the last poll; -1: not known, or no stream.
        event_time: newest event time that is in it.
        applied_at: when a record was last written.
        polled_at: when the writer last knew that it had everything up to `lag`.
    """

    space: str
    rows: int
    capacity: int
    loaded: bool
    refused: int
    lag: int
    event_time: int
    applied_at: int
    polled_at: int

    def staleness(self, now: int) -> float:
        """Seconds since the writer last looked; infinite where it never did, or looks ahead of `now`."""
        return _age(self.polled_at, now)


@dataclass(slots=True)
class TableReads:
    """Ids this process was asked for, by where they were read; `torn` ones were half written, and came from the store."""

    table: int = 0
    store: int = 0
    torn: int = 0


def table_state(folder: Path, space: EmbeddingSpace) -> TableState | None:
    """The state of a space's table, readable by any process; None where there is none.

    Raises:
        SpaceMismatch, Misconfigured: as `TableFile`.
    """
    try:
        file = TableFile(table_path(folder, space), space)
    except FileNotFoundError:
        return None
    return _state(space, file)


class VectorTable:
    """One mapped table, read only. Thread-safe."""

    def __init__(self, file: TableFile, space: EmbeddingSpace, index: Callable[[Any], RowIndex] = rows_over) -> None:
        self.file = file
        self.space = space
        self._index = index(file.parts.keys)
        self._lock = threading.Lock()
        self._heads, self._codes = file.parts.heads, file.parts.codes
        self._sequence = self._heads["sequence"]
        self._published = file.parts.header["rows"]

    def locate(self, *ids: Ids) -> Keys:
        """(B,) the row of each id of all batches end to end, as of one moment; -1 where it has none."""
        self._catch_up()
        # Rows that come in meanwhile are left out: of two equal ids one would be found and one not.
        known = self._index.rows
        rows = np.concatenate([self._index.find(part) for part in ids])
        rows[rows >= known] = -1
        return rows

    def copy(self, rows: Keys) -> tuple[Embeddings, NDArray[np.bool_]]:
        """(B, D) vectors of rows 0 and up, and (B,) whether each is one whole version; those that are not are not present."""
        scale, inv_norm, codes, whole = self._copy(rows)
        attempts = 0
        while attempts < _ATTEMPTS and not whole.all():
            os.sched_yield()
            again = np.flatnonzero(~whole)
            scale[again], inv_norm[again], codes[again], whole[again] = self._copy(rows[again])
            attempts += 1
        if attempts:
            inv_norm[~whole] = 0
        return Embeddings(self.space, codes, scale, inv_norm, inv_norm > 0), whole

    def blocks(self) -> Iterator[tuple[list[str], Embeddings]]:
        """Everything in it, in row order, some thousand rows at a time; each row in one version.

        Raises:
            Transient: a row was left half written.
        """
        rows = self._rows()
        for start in range(0, rows, _BLOCK_ROWS):
            part = texts(self.file.parts.keys[start : min(start + _BLOCK_ROWS, rows)])
            found, whole = self.copy(np.arange(start, start + len(part)))
            if not whole.all():
                raise Transient(
                    f"vector table {self.space.id}: expected whole rows, got one its writer left; wait for a new writer"
                )
            yield part, found

    def state(self) -> TableState:
        """How it is doing."""
        return _state(self.space, self.file)

    def _copy(self, rows: Keys) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8], NDArray[np.bool_]]:
        before = self._sequence[rows]
        heads, codes = self._heads[rows], self._codes.take(rows, axis=0)
        after = self._sequence[rows]
        whole = (before == after) & ((before & np.uint64(1)) == 0)
        return heads["scale"].copy(), heads["inv_norm"].copy(), codes, whole

    def _catch_up(self) -> None:
        if self._index.rows != self._rows():
            with self._lock:
                self._index.add(self._rows())

    def _rows(self) -> int:
        return min(int(self._published[0]), self.file.capacity)


class VectorTables:
    """`Vectors` from the tables of a folder; what is in none of them comes from `fallback`, and is counted. Thread-safe.

    A table that its writer replaced is found at the next read. While no process writes, reads go on with what is there, until
    `max_age_seconds` have passed.

    Args:
        folder: of all tables.
        fallback: for items that are in no table: a space without one, a full table, one that lags behind.
        max_age_seconds: a table whose writer was last seen longer ago is not read; None: always read.
        clock: microseconds UTC.
        index: makes the index over a table's keys.

    Attributes:
        reads: what was read where, by space id.
    """

    def __init__(
        self,
        folder: Path,
        fallback: Vectors,
        *,
        max_age_seconds: float | None = None,
        clock: Clock = wall_clock,
        index: Callable[[Any], RowIndex] = rows_over,
    ) -> None:
        self._folder = folder
        self._fallback = fallback
        self._max_age = max_age_seconds
        self._clock = clock
        self._index = index
        self._tables: dict[EmbeddingSpace, VectorTable] = {}
        self.reads: dict[str, TableReads] = {}

    def read(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """See `Vectors.read`."""
        return self.read_keyed(space, ids)[0].with_ids(ids)

    def read_keyed(self, space: EmbeddingSpace, *ids: Ids) -> tuple[Embeddings, Keys]:
        """See `Vectors.read_keyed`."""
        reads, total = self.reads.setdefault(space.id, TableReads()), sum(map(len, ids))
        table = None if space.prefix_of else self._table(space)
        if table is None or not table.file.parts.header["rows"][0]:
            reads.store += total
            return self._fallback.read_keyed(space, *ids)
        keys = table.locate(*ids)
        unknown = keys < 0
        found, whole = table.copy(np.maximum(keys, 0))
        elsewhere = np.flatnonzero(unknown | ~whole)
        reads.table += total - len(elsewhere)
        if not len(elsewhere):
            return found, keys
        reads.store += len(elsewhere)
        reads.torn += int((~unknown & ~whole).sum())
        return self._filled(found, keys, elsewhere, picked(ids, elsewhere))

    def scan_blocks(self, space: EmbeddingSpace) -> Iterator[tuple[list[str], Embeddings]] | None:
        """Every vector of the space, in blocks; None where they are not all in a table.

        Raises:
            SpaceMismatch: the table is another encoder's.
        """
        table = None if space.prefix_of else self._table(space)
        if table is None:
            return None
        state = table.state()
        return table.blocks() if state.loaded and not state.refused else None

    def states(self, spaces: Iterable[EmbeddingSpace]) -> list[TableState]:
        """The state of each space's table, for spaces that have one."""
        found = [(space, self._attached(space)) for space in spaces]
        return [table.state() for _, table in found if table is not None]

    def _filled(self, found: Embeddings, keys: Keys, rows: Keys, ids: Sequence[str]) -> tuple[Embeddings, Keys]:
        """`found` with some rows from the fallback."""
        rest = self._fallback.read(found.space, ids)
        found.codes[rows], found.scale[rows] = rest.codes, rest.scale
        found.inv_norm[rows], found.present[rows] = rest.inv_norm, rest.present
        _, others = numbered(ids)
        unknown = keys[rows] < 0
        keys[rows[unknown]] = -2 - others[unknown]
        return found, keys

    def _table(self, space: EmbeddingSpace) -> VectorTable | None:
        """The space's table, where it may be read."""
        table = self._attached(space)
        if table is not None and self._max_age is not None:
            polled_at = int(table.file.parts.header["polled_at"][0])
            if _age(polled_at, self._clock()) > self._max_age:
                return None
        return table

    def _attached(self, space: EmbeddingSpace) -> VectorTable | None:
        """The table at the space's path now."""
        path, table = table_path(self._folder, space), self._tables.get(space)
        try:
            status = os.stat(path)
            if table is None or table.file.inode != (status.st_dev, status.st_ino):
                table = self._tables[space] = VectorTable(TableFile(path, space), space, self._index)
        except FileNotFoundError:
            self._tables.pop(space, None)
            return None
        return table


def _age(polled_at: int, now: int) -> float:
    return max(now - polled_at, 0) / 1e6 if polled_at and polled_at - now <= _AHEAD else float("inf")


def _state(space: EmbeddingSpace, file: TableFile) -> TableState:
    header = file.parts.header[0]
    return TableState(
        space.id,
        int(header["rows"]),
        file.capacity,
        bool(header["loaded"]),
        int(header["refused"]),
        int(header["lag"]),
        int(header["event_time"]),
        int(header["applied_at"]),
        int(header["polled_at"]),
    )


__all__ = ["TableReads", "TableState", "VectorTable", "VectorTables", "table_state"]
