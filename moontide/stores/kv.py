"""The small key-value engine under the online store: bytes in, bytes out, fenced where the bytes are compared.

A *table* is one view of one project. A record starts with its 40-byte order key (`moontide.order`); engines compare those bytes
and look at nothing else. A *mark* says that the index entry of a key may be out of date; its value is an order key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from moontide.order import KEY_BYTES

#: Microseconds since the epoch, UTC.
Clock = Callable[[], int]
#: ``(row, stored record or b"") -> record to store``.
Combine = Callable[[int, bytes], bytes]
Outcomes = NDArray[np.int8]

#: The mark of a key whose record was removed: lower than every record's.
REMOVED: Final = bytes(KEY_BYTES)


def wall_clock() -> int:
    """The machine's clock."""
    return time.time_ns() // 1_000


class KeyValue(Protocol):
    """Safe for many processes and threads.

    Raises `Transient` where the engine does not answer, `Misconfigured` where it cannot.
    """

    def get(self, table: bytes, keys: Sequence[bytes], default: bytes) -> list[bytes]:
        """The records in the order asked for, `default` where there is none."""

    def put(self, table: bytes, keys: Sequence[bytes], records: Sequence[bytes], *, mark: bool) -> Outcomes:
        """Write each record unless the stored one is as high or higher, row by row in row order (a key may repeat).

        With `mark`, a row that is applied or equal marks its key with its order key in the same transaction.

        Returns:
            (B,) `moontide.order.Outcome` per row.
        """

    def merge(self, table: bytes, keys: Sequence[bytes], combine: Combine) -> Outcomes:
        """Replace each record by what `combine` makes of it, atomically per key; the keys are distinct.

        `combine` may be called again for a row when another writer was faster. The same bytes count as equal.
        """

    def remove(self, table: bytes, keys: Sequence[bytes], *, mark: bool) -> int:
        """Delete records and their marks; with `mark`, mark the keys that had a record with `REMOVED` instead.

        Returns how many had a record.
        """

    def drop(self, table: bytes) -> int:
        """Delete every record and mark of a table; returns how many records there were."""

    def scan(self, table: bytes) -> Iterator[list[bytes]]:
        """Every key of a table, in chunks, with memory for one chunk.

        A key written or removed meanwhile may or may not be among them, and while keys come and go one may come twice.
        """

    def foreign_keys(self) -> int:
        """About how many keys of other tables `scan` walks through; 0 where a table lies by itself."""

    def mark(self, table: bytes, keys: Sequence[bytes]) -> int:
        """Mark the keys that have a record with its order key; returns how many."""

    def marks(self, table: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (key, mark value) pairs."""

    def unmark(self, table: bytes, marks: Sequence[tuple[bytes, bytes]]) -> int:
        """Remove the marks whose value is still the given one; returns how many."""

    def close(self) -> None:
        """Release the engine."""
