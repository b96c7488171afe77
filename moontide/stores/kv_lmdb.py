"""The embedded engine: one LMDB file that many processes read and write, and that survives kill -9.

Transactions are short and bounded in rows, and no buffer outlives one: values are copied inside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np

from moontide.errors import Misconfigured
from moontide.order import KEY_BYTES, Outcome
from moontide.stores.kv import REMOVED, Clock, Combine, Outcomes
from moontide.stores.kv_lmdb_environment import LmdbEnvironment, LmdbOptions

_MAX_KEY: Final = 511
_RECORD, _MARK, _LONG = b"r", b"d", b"n"
_HASHED: Final = b"\xff\xff"  # no UTF-8 text starts so
_ROWS_PER_WRITE: Final = 5_000
_ROWS_PER_READ: Final = 50_000
_MERGES_PER_WRITE: Final = 200


class LmdbKeyValue:
    """`KeyValue` in the LMDB file of the folder `path`.

    Args:
        path: the folder, made where there is none.
        options: how to open it.
        clock: when to look for readers that were killed.
    """

    def __init__(self, path: Path, options: LmdbOptions, clock: Clock) -> None:
        self._environment = LmdbEnvironment(path, options, clock)

    def get(self, table: bytes, keys: Sequence[bytes], default: bytes) -> list[bytes]:
        """See `KeyValue.get`."""
        names = _names(_RECORD + table, keys)
        found: list[bytes] = []
        for start in range(0, len(names), _ROWS_PER_READ):
            with self._environment.transaction() as txn:
                found += map(txn.get, names[start : start + _ROWS_PER_READ], repeat(default))
        return found

    def put(self, table: bytes, keys: Sequence[bytes], records: Sequence[bytes], *, mark: bool) -> Outcomes:
        """See `KeyValue.put`."""
        names, marks = _names(_RECORD + table, keys), _names(_MARK + table, keys) if mark else None
        outcomes = np.empty(len(keys), np.int8)
        order = sorted(range(len(keys)), key=names.__getitem__)  # stable: rows of one key keep their order
        for start in range(0, len(order), _ROWS_PER_WRITE):
            with self._environment.transaction(write=True) as txn:
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
            with self._environment.transaction(write=True) as txn:
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
            with self._environment.transaction(write=True) as txn:
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
            with self._environment.transaction() as txn:
                names = _range(txn, prefix, last, _ROWS_PER_WRITE)
                keys = [_key(txn, name, len(prefix)) for name in names]
            if not keys:
                return
            yield keys
            last = names[-1]

    def foreign_keys(self) -> int:
        """See `KeyValue.foreign_keys`."""
        return 0

    def mark(self, table: bytes, keys: Sequence[bytes]) -> int:
        """See `KeyValue.mark`."""
        names, marks = _names(_RECORD + table, keys), _names(_MARK + table, keys)
        found = 0
        for start in range(0, len(keys), _ROWS_PER_WRITE):
            with self._environment.transaction(write=True) as txn:
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
        with self._environment.transaction() as txn:
            names = _range(txn, prefix, b"", limit)
            return [(_key(txn, name, len(prefix)), txn.get(name)) for name in names]

    def unmark(self, table: bytes, marks: Sequence[tuple[bytes, bytes]]) -> int:
        """See `KeyValue.unmark`."""
        names = _names(_MARK + table, [key for key, _ in marks])
        cleared = 0
        for start in range(0, len(names), _ROWS_PER_WRITE):
            with self._environment.transaction(write=True) as txn:
                for name, (_, token) in zip(names[start : start + _ROWS_PER_WRITE], marks[start:], strict=False):
                    if txn.get(name) == token:
                        cleared += txn.delete(name)
        return cleared

    def close(self) -> None:
        """See `KeyValue.close`."""
        self._environment.close()

    def _clear(self, prefix: bytes) -> int:
        found = 0
        while True:
            with self._environment.transaction(write=True) as txn:
                names = _range(txn, prefix, b"", _ROWS_PER_WRITE)
                found += sum(bool(txn.delete(name)) for name in names)
            if not names:
                return found


def _names(prefix: bytes, keys: Sequence[bytes]) -> list[bytes]:
    room = _MAX_KEY - len(prefix)
    if max(map(len, keys), default=0) <= room:
        return list(map(prefix.__add__, keys))
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
