"""The writer of one vector table: the highest order key per item wins, whatever order records come in (B records)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, Transient
from moontide.order import KEY_BYTES, WriteOrder
from moontide.spaces import EmbeddingSpace, require_same_space
from moontide.stores.kv import REMOVED, Clock
from serving.table_layout import TableFile, create, lock, opened, table_path

_log = logging.getLogger(__name__)

_ROWS_PER_WRITE: Final = 256
_READ_ROWS: Final = 2_048
#: Share of a full table that must be rows of removed items before it is begun anew.
_DEAD: Final = 16


class TableWriter:
    """Owns the file of one space. Used by one thread of the one process that writes it.

    A file of the same space and capacity that is there is gone on with; any other is replaced.

    Args:
        folder: of all tables; in shared memory.
        space: whole, not a prefix.
        capacity: most rows; items beyond it are refused and counted, and their readers go to the store.
        clock: microseconds UTC.

    Attributes:
        damaged: ids whose row a writer that died left half written; they are not readable until written again.

    Raises:
        Transient: another process writes the table.
        Misconfigured: the folder cannot be written.
    """

    def __init__(self, folder: Path, space: EmbeddingSpace, capacity: int, clock: Clock) -> None:
        if capacity < 1 or space.prefix_of:
            raise Misconfigured(f"vector table: expected a whole space and 1 row or more, got {space.id} and {capacity}")
        self.space = space
        self._clock = clock
        self._path = table_path(folder, space)
        self._lock = lock(folder, space)
        self._use(opened(self._path, space, capacity))
        for start in range(0, self.rows, _READ_ROWS):
            keys = self._parts.keys[start : min(start + _READ_ROWS, self.rows)].tolist()
            self._rows.update((key.decode("ascii"), start + n) for n, key in enumerate(keys))
        self.damaged = self._recover()

    @property
    def rows(self) -> int:
        """Items in the table, tombstones included."""
        return int(self._header["rows"][0])

    def sequences(self) -> NDArray[np.uint64]:
        """(rows,) a number for each row that changes when it is written."""
        found: NDArray[np.uint64] = self._parts.heads["sequence"][: self.rows].copy()
        return found

    def upsert(self, vectors: Embeddings, orders: Sequence[bytes], since: NDArray[np.uint64] | None = None) -> int:
        """Write the records that are newer than what is there; returns how many.

        Args:
            vectors: B rows with ids, repeats allowed; a tombstone is a row that is not present.
            orders: B order keys of 40 bytes.
            since: `sequences` of some time ago, for records of the arbiter: what was not written after it they replace, newer or
                not.

        Raises:
            SpaceMismatch: vectors of another space; nothing was written.
            ValueError: vectors without ids, or order keys of another number or length; nothing was written.
        """
        require_same_space(self.space, vectors.space, where="vector table")
        if vectors.ids is None or len(orders) != len(vectors) or any(len(order) != KEY_BYTES for order in orders):
            raise ValueError(f"vector table: expected ids and order keys of {KEY_BYTES} bytes, one a row, got others")
        newest: dict[str, int] = {}
        for row, item in enumerate(vectors.ids):
            if item not in newest or orders[newest[item]] < orders[row]:
                newest[item] = row
        known = {item: self._rows[item] for item in newest if item in self._rows}
        stored = dict(zip(known, self._orders(list(known.values())), strict=True))
        loose = self._untouched(known, since)
        changed = [
            row
            for item, row in newest.items()
            if item not in stored or stored[item] < orders[row] or (item in loose and stored[item] != orders[row])
        ]
        written = 0
        for start in range(0, len(changed), _ROWS_PER_WRITE):
            part = changed[start : start + _ROWS_PER_WRITE]
            written += self._write([vectors.ids[row] for row in part], vectors, part, [orders[row] for row in part])
        return written

    def forget(self, ids: Sequence[str]) -> None:
        """Make items that the store does not know any more not present; any record of them wins from then on."""
        known = [item for item in ids if item in self._rows]
        places = [self._rows[item] for item in known]
        half = (self._parts.heads["sequence"][places] & np.uint64(1)).tolist()
        there = [item for item, order, odd in zip(known, self._orders(places), half, strict=True) if odd or order != REMOVED]
        for start in range(0, len(there), _ROWS_PER_WRITE):
            part = there[start : start + _ROWS_PER_WRITE]
            blank = Embeddings.absent(self.space, len(part))
            self._write(part, blank, list(range(len(part))), [REMOVED] * len(part))

    def ids(self) -> list[str]:
        """Every item in it, by row."""
        return list(self._rows)

    def place(self, item_id: str) -> int | None:
        """The row of an item."""
        return self._rows.get(item_id)

    def polled(self, *, lag: int = -1, at: int | None = None) -> None:
        """Say that everything written until `at` (None: now) is in it, but for `lag` records still to be read (-1: not known)."""
        self._header["lag"], self._header["polled_at"], self._header["loaded"] = lag, self._clock() if at is None else at, 1
        self.damaged = []

    def renew(self) -> bool:
        """Begin an empty file where a full one has many rows of removed items; whether it did.

        Readers find it at their next read, and go to the store until it is loaded. Without room for it the full one stays.
        """
        capacity = self._file.capacity
        if self.rows < capacity:
            return False
        dead = capacity - np.count_nonzero(self._parts.orders.view("<u8").reshape(capacity, -1).any(axis=1))
        if dead * _DEAD < capacity:
            return False
        try:
            create(self._path, self.space, capacity)
        except Misconfigured as error:
            _log.warning("%s", error)
            return False
        del self._parts, self._header
        self._file.close()
        self._use(TableFile(self._path, self.space, write=True))
        self.damaged = []
        return True

    def require_file(self) -> None:
        """Check that the file at the table's path is the one that is written.

        Raises:
            Transient: it was removed or replaced; make a new writer.
        """
        try:
            status = os.stat(self._path)
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._file.inode:
            got = "nothing" if status is None else "another"
            raise Transient(f"vector table {self.space.id}: expected its file at {self._path}, got {got}; start a new writer")

    def close(self) -> None:
        """Give the table up; the file stays, for readers and for the next writer."""
        os.close(self._lock)
        del self._parts, self._header
        self._file.close()

    def _use(self, file: TableFile) -> None:
        self._file, self._parts, self._header = file, file.parts, file.parts.header
        self._header["loaded"], self._header["refused"] = 0, 0
        self._rows: dict[str, int] = {}

    def _untouched(self, known: Mapping[str, int], since: NDArray[np.uint64] | None) -> set[str]:
        """Items whose row was not written after `since`."""
        if since is None:
            return set()
        now = self._parts.heads["sequence"]
        return {item for item, place in known.items() if place < len(since) and since[place] == now[place]}

    def _orders(self, rows: Sequence[int]) -> list[bytes]:
        found: list[bytes] = self._parts.orders[np.array(rows, np.int64)].tolist()
        return found

    def _write(self, ids: Sequence[str], vectors: Embeddings, rows: Sequence[int], orders: Sequence[bytes]) -> int:
        """Rows of distinct items, each whole; returns how many had room."""
        room = self._room(sum(item not in self._rows for item in ids))
        places: list[int] = []
        taken: list[int] = []
        fresh: list[str] = []
        for n, item in enumerate(ids):
            place = self._rows.get(item)
            if place is None:
                if len(fresh) == room:
                    self._header["refused"] += 1
                    continue
                place = len(self._rows) + len(fresh)
                fresh.append(item)
            places.append(place)
            taken.append(n)
        at, of = np.array(places, np.int64), np.array(rows, np.int64)[taken]
        if fresh:
            first = len(self._rows)
            self._parts.keys[first : first + len(fresh)] = [item.encode("ascii") for item in fresh]
        self._put(at, vectors, of, b"".join([orders[n] for n in taken]))
        for item in fresh:
            self._rows[item] = len(self._rows)
        self._header["rows"] = len(self._rows)
        if places:
            latest = max(WriteOrder.unpack(orders[n]).event_timestamp for n in taken)
            self._header["event_time"] = max(int(self._header["event_time"][0]), latest)
            self._header["applied_at"] = self._clock()
        return len(places)

    def _put(self, at: NDArray[np.int64], vectors: Embeddings, of: NDArray[np.int64], orders: bytes) -> None:
        heads, sequence = self._parts.heads, self._parts.heads["sequence"]
        odd = sequence[at] | np.uint64(1)
        sequence[at] = odd
        self._parts.orders[at] = np.frombuffer(orders, f"V{KEY_BYTES}")
        heads["scale"][at], heads["inv_norm"][at] = vectors.scale[of], vectors.inv_norm[of]
        self._parts.codes[at] = vectors.codes[of]
        sequence[at] = odd + np.uint64(1)

    def _room(self, wanted: int) -> int:
        used = len(self._rows)
        if wanted and not self._file.reserve(min(used + wanted, self._file.capacity)):
            return 0
        return min(wanted, self._file.capacity - used)

    def _recover(self) -> list[str]:
        """Ids of half-written rows; their order is forgotten, so that the first record of them wins."""
        self._file.reserve(self.rows)
        broken = np.flatnonzero(self._parts.heads["sequence"][: self.rows] & np.uint64(1))
        self._parts.orders[broken] = np.void(REMOVED)
        ids = list(self._rows)
        return [ids[row] for row in broken.tolist()]
