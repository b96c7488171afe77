"""The engine in this process's memory: the shipped test double, and the oracle of the other engines."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from moontide.order import KEY_BYTES, Outcome, compare
from moontide.stores.kv import REMOVED, Combine, Outcomes

_CHUNK = 1_000


class MemoryKeyValue:
    """`KeyValue` over dicts, one lock. Nothing is shared between two of them, or with a forked child."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[bytes, dict[bytes, bytes]] = defaultdict(dict)
        self._marks: dict[bytes, dict[bytes, bytes]] = defaultdict(dict)

    def get(self, table: bytes, keys: Sequence[bytes], default: bytes) -> list[bytes]:
        """See `KeyValue.get`."""
        with self._lock:
            stored = self._records[table]
            return [stored.get(key, default) for key in keys]

    def put(self, table: bytes, keys: Sequence[bytes], records: Sequence[bytes], *, mark: bool) -> Outcomes:
        """See `KeyValue.put`."""
        outcomes = np.empty(len(keys), np.int8)
        with self._lock:
            stored, marks = self._records[table], self._marks[table]
            for row, (key, record) in enumerate(zip(keys, records, strict=True)):
                outcome = compare(record, stored.get(key))
                outcomes[row] = outcome
                if outcome is Outcome.APPLIED:
                    stored[key] = record
                if mark and outcome is not Outcome.STALE:
                    marks[key] = record[:KEY_BYTES]
        return outcomes

    def merge(self, table: bytes, keys: Sequence[bytes], combine: Combine) -> Outcomes:
        """See `KeyValue.merge`."""
        outcomes = np.empty(len(keys), np.int8)
        with self._lock:
            stored = self._records[table]
            for row, key in enumerate(keys):
                old = stored.get(key, b"")
                new = combine(row, old)
                outcomes[row] = Outcome.EQUAL if new == old else Outcome.APPLIED
                stored[key] = new
        return outcomes

    def remove(self, table: bytes, keys: Sequence[bytes], *, mark: bool) -> int:
        """See `KeyValue.remove`."""
        with self._lock:
            found = 0
            for key in keys:
                had = self._records[table].pop(key, None) is not None
                found += had
                if mark and had:
                    self._marks[table][key] = REMOVED
                elif not mark:
                    self._marks[table].pop(key, None)
            return found

    def drop(self, table: bytes) -> int:
        """See `KeyValue.drop`."""
        with self._lock:
            self._marks.pop(table, None)
            return len(self._records.pop(table, {}))

    def scan(self, table: bytes) -> Iterator[list[bytes]]:
        """See `KeyValue.scan`."""
        with self._lock:
            keys = list(self._records[table])
        for start in range(0, len(keys), _CHUNK):
            yield keys[start : start + _CHUNK]

    def foreign_keys(self) -> int:
        """See `KeyValue.foreign_keys`."""
        return 0

    def mark(self, table: bytes, keys: Sequence[bytes]) -> int:
        """See `KeyValue.mark`."""
        with self._lock:
            heads = {key: self._records[table][key][:KEY_BYTES] for key in keys if key in self._records[table]}
            self._marks[table].update(heads)
            return len(heads)

    def marks(self, table: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `KeyValue.marks`."""
        with self._lock:
            return list(self._marks[table].items())[: max(limit, 0)]

    def unmark(self, table: bytes, marks: Sequence[tuple[bytes, bytes]]) -> int:
        """See `KeyValue.unmark`."""
        with self._lock:
            kept = self._marks[table]
            cleared = [key for key, token in marks if kept.get(key) == token]
            for key in cleared:
                kept.pop(key, None)
            return len(cleared)

    def close(self) -> None:
        """See `KeyValue.close`."""
