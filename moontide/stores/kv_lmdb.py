"""The embedded engine: one LMDB file that many processes read and write, and that survives kill -9.

The rules an LMDB file asks for are kept here: one environment per (file, process), none used across a fork, stale readers
cleared, short transactions, no buffer that outlives its transaction.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from moontide.errors import Misconfigured, Transient
from moontide.order import KEY_BYTES, Outcome
from moontide.stores.kv import REMOVED, Clock, Combine, Outcomes

_DATABASE: Final = b"moontide"
_MAX_KEY: Final = 511
_RECORD, _MARK, _LONG = b"r", b"d", b"n"
_HASHED: Final = b"\xff\xff"  # no UTF-8 text starts so
_ROWS_PER_WRITE: Final = 5_000
_ROWS_PER_READ: Final = 50_000
_MERGES_PER_WRITE: Final = 200
_READER_CHECK_US: Final = 10_000_000


@dataclass(slots=True)
class _Shared:
    """An open environment of this process and how many stores use it."""

    env: Any
    database: Any
    users: int = 0
    checked_at: int = 0


_environments: dict[tuple[int, str], _Shared] = {}
_inherited: list[_Shared] = []
_lock = threading.Lock()


def _forget_after_fork() -> None:
    # A child must neither use nor close its parent's environments: closing would run on locks and maps the parent still uses.
    global _lock  # noqa: PLW0603 - the parent may have held it at the fork
    _lock = threading.Lock()
    _inherited.extend(_environments.values())
    _environments.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class LmdbKeyValue:
    """`KeyValue` in the folder `path`, created with mode 0700 (files 0600).

    Args:
        path: folder of the file.
        map_size: bytes it may grow to; the same in every process.
        max_readers: reader slots; the same in every process.
        sync: fsync each commit.
        clock: when to look for readers that were killed.
    """

    def __init__(self, path: Path, *, map_size: int, max_readers: int, sync: bool, clock: Clock) -> None:
        self._path = os.path.realpath(path)
        self._options: dict[str, Any] = {"map_size": map_size, "max_readers": max_readers, "sync": sync}
        self._clock = clock
        self._pid = os.getpid()
        self._shared: _Shared | None = self._acquire()

    def get(self, table: bytes, keys: Sequence[bytes], default: bytes) -> list[bytes]:
        """See `KeyValue.get`."""
        names = _names(_RECORD + table, keys)
        found: list[bytes] = []
        for start in range(0, len(names), _ROWS_PER_READ):
            with self._transaction() as txn:
                get = txn.get
                found += [get(name, default) for name in names[start : start + _ROWS_PER_READ]]
        return found

    def put(self, table: bytes, keys: Sequence[bytes], records: Sequence[bytes], *, mark: bool) -> Outcomes:
        """See `KeyValue.put`."""
        names, marks = _names(_RECORD + table, keys), _names(_MARK + table, keys) if mark else None
        outcomes = np.empty(len(keys), np.int8)
        order = sorted(range(len(keys)), key=names.__getitem__)  # stable: rows of one key keep their order
        for start in range(0, len(order), _ROWS_PER_WRITE):
            with self._transaction(write=True) as txn:
                for row in order[start : start + _ROWS_PER_WRITE]:
                    record, name = records[row], names[row]
                    head, stored = record[:KEY_BYTES], txn.get(name)
                    outcome = Outcome.APPLIED
                    if stored is not None and stored[:KEY_BYTES] >= head:
                        outcome = Outcome.EQUAL if stored[:KEY_BYTES] == head else Outcome.STALE
                    if outcome == Outcome.APPLIED:
                        txn.put(name, record)
                        if stored is None:
                            _remember(txn, name, table, keys[row])
                    if marks is not None and outcome != Outcome.STALE:
                        txn.put(marks[row], head)
                        _remember(txn, marks[row], table, keys[row])
                    outcomes[row] = outcome
        return outcomes

    def merge(self, table: bytes, keys: Sequence[bytes], combine: Combine) -> Outcomes:
        """See `KeyValue.merge`."""
        names = _names(_RECORD + table, keys)
        outcomes = np.empty(len(keys), np.int8)
        for start in range(0, len(keys), _MERGES_PER_WRITE):
            with self._transaction(write=True) as txn:
                for row in range(start, min(start + _MERGES_PER_WRITE, len(keys))):
                    stored = txn.get(names[row], b"")
                    record = combine(row, stored)
                    outcomes[row] = Outcome.EQUAL if record == stored else Outcome.APPLIED
                    if record != stored:
                        txn.put(names[row], record)
                        _remember(txn, names[row], table, keys[row])
        return outcomes

    def remove(self, table: bytes, keys: Sequence[bytes], *, mark: bool) -> int:
        """See `KeyValue.remove`."""
        names, marks = _names(_RECORD + table, keys), _names(_MARK + table, keys)
        found = 0
        for start in range(0, len(keys), _ROWS_PER_WRITE):
            with self._transaction(write=True) as txn:
                for row in range(start, min(start + _ROWS_PER_WRITE, len(keys))):
                    had = txn.delete(names[row])
                    found += had
                    if mark and had:
                        txn.put(marks[row], REMOVED)
                        _remember(txn, marks[row], table, keys[row])
                    elif not mark:
                        txn.delete(marks[row])
        return found

    def drop(self, table: bytes) -> int:
        """See `KeyValue.drop`."""
        self._clear(_MARK + table)
        return self._clear(_RECORD + table)

    def scan(self, table: bytes) -> Iterator[list[bytes]]:
        """See `KeyValue.scan`."""
        prefix, last = _RECORD + table, b""
        while True:
            with self._transaction() as txn:
                names = _range(txn, prefix, last, _ROWS_PER_WRITE)
                keys = [_key(txn, name, len(prefix)) for name in names]
            if not keys:
                return
            yield keys
            last = names[-1]

    def mark(self, table: bytes, keys: Sequence[bytes]) -> int:
        """See `KeyValue.mark`."""
        names, marks = _names(_RECORD + table, keys), _names(_MARK + table, keys)
        found = 0
        for start in range(0, len(keys), _ROWS_PER_WRITE):
            with self._transaction(write=True) as txn:
                for row in range(start, min(start + _ROWS_PER_WRITE, len(keys))):
                    stored = txn.get(names[row])
                    if stored is not None:
                        found += 1
                        txn.put(marks[row], stored[:KEY_BYTES])
                        _remember(txn, marks[row], table, keys[row])
        return found

    def marks(self, table: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `KeyValue.marks`."""
        prefix = _MARK + table
        with self._transaction() as txn:
            names = _range(txn, prefix, b"", limit)
            return [(_key(txn, name, len(prefix)), txn.get(name)) for name in names]

    def unmark(self, table: bytes, marks: Sequence[tuple[bytes, bytes]]) -> int:
        """See `KeyValue.unmark`."""
        names = _names(_MARK + table, [key for key, _ in marks])
        cleared = 0
        for start in range(0, len(names), _ROWS_PER_WRITE):
            with self._transaction(write=True) as txn:
                for name, (_, token) in zip(names[start : start + _ROWS_PER_WRITE], marks[start:], strict=False):
                    if txn.get(name) == token:
                        cleared += txn.delete(name)
        return cleared

    def close(self) -> None:
        """Release the environment; the last store of this process that uses it closes it."""
        with _lock:
            shared, self._shared = self._shared, None
            if shared is None or self._pid != os.getpid():
                return
            shared.users -= 1
            if shared.users == 0:
                _environments.pop((self._pid, self._path), None)
                shared.env.close()

    def _clear(self, prefix: bytes) -> int:
        found = 0
        while True:
            with self._transaction(write=True) as txn:
                names = _range(txn, prefix, b"", _ROWS_PER_WRITE)
                found += sum(bool(txn.delete(name)) for name in names)
            if not names:
                return found

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Any]:
        shared = self._current()
        try:
            with shared.env.begin(db=shared.database, write=write) as txn:
                yield txn
        except lmdb.Error as error:
            raise self._explained(error) from error

    def _current(self) -> _Shared:
        if self._shared is None:
            raise Misconfigured(f"online store {self._path}: expected an open store, got one that was closed; open it again")
        if self._pid != os.getpid():
            self._pid, self._shared = os.getpid(), self._acquire()
        shared, now = self._shared, self._clock()
        if abs(now - shared.checked_at) > _READER_CHECK_US:
            shared.checked_at = now
            shared.env.reader_check()
        return shared

    def _acquire(self) -> _Shared:
        key = (os.getpid(), self._path)
        with _lock:
            shared = _environments.get(key)
            if shared is None:
                shared = _environments[key] = self._open()
            shared.users += 1
            return shared

    def _open(self) -> _Shared:
        try:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            env = lmdb.open(
                self._path, mode=0o600, max_dbs=2, max_spare_txns=16, readahead=False, meminit=False, **self._options
            )
            env.reader_check()
            return _Shared(env, env.open_db(_DATABASE), checked_at=self._clock())
        except lmdb.Error as error:
            raise self._explained(error) from error
        except OSError as error:
            raise Misconfigured(
                f"online store: expected a folder that can be written at {self._path}, got: {error}; set MOONTIDE_HOME"
            ) from error

    def _explained(self, error: lmdb.Error) -> Exception:
        where = f"online store {self._path}"
        if isinstance(error, lmdb.MapFullError):
            return Misconfigured(
                f"{where}: expected free space, got a file at its limit of {self._options['map_size']} bytes; "
                "raise MOONTIDE_LMDB_MAP_SIZE in every process and start again, or drop a space"
            )
        if isinstance(error, lmdb.MapResizedError):
            return Misconfigured(
                f"{where}: expected the same MOONTIDE_LMDB_MAP_SIZE in every process, got a file larger than this one's "
                f"{self._options['map_size']} bytes; set it alike and start again"
            )
        if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError | lmdb.CorruptedError):
            return Misconfigured(f"{where}: expected an LMDB file, got: {error}; move it away and load the store again")
        if isinstance(error, lmdb.ReadersFullError):
            return Transient(
                f"{where}: expected a free reader slot, got all {self._options['max_readers']} in use; "
                "raise MOONTIDE_LMDB_MAX_READERS in every process, or run fewer"
            )
        return Transient(f"{where}: expected an answer, got {type(error).__name__}: {error}; try again")


def _names(prefix: bytes, keys: Sequence[bytes]) -> list[bytes]:
    room = _MAX_KEY - len(prefix)
    if max(map(len, keys), default=0) <= room:
        return [prefix + key for key in keys]
    if room < len(_HASHED) + 32:
        raise Misconfigured(f"online store: expected names of project and view below 400 bytes, got {len(prefix)}; shorten them")
    return [prefix + (key if len(key) <= room else _HASHED + hashlib.blake2b(key, digest_size=32).digest()) for key in keys]


def _remember(txn: Any, name: bytes, table: bytes, key: bytes) -> None:
    # A hashed name does not tell its key, which a scan has to.
    if len(key) + len(table) + 1 > _MAX_KEY:
        txn.put(_LONG + name[-32:], key)


def _key(txn: Any, name: bytes, prefix: int) -> bytes:
    if name.startswith(_HASHED, prefix):
        return bytes(txn.get(_LONG + name[-32:], b""))
    return name[prefix:]


def _range(txn: Any, prefix: bytes, after: bytes, limit: int) -> list[bytes]:
    names: list[bytes] = []
    with txn.cursor() as cursor:
        more = cursor.set_range(after + b"\0" if after else prefix)
        while more and len(names) < limit:
            name = cursor.key()
            if not name.startswith(prefix):
                break
            names.append(name)
            more = cursor.next()
    return names
