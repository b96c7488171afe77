"""Ids that lie end to end in one text: what is looked up by machine code needs no Python string of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class PackedIds:
    """B ids.

    Attributes:
        text: UTF-8.
        starts, stops: (B,) int64, the bytes ``text[starts[n]:stops[n]]`` of each id; they lie within the text.
    """

    text: bytes
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def of(cls, ids: Sequence[str]) -> PackedIds:
        """The same ids, packed.

        Raises:
            UnicodeEncodeError: one is no text that UTF-8 can hold.
        """
        joined = "".join(ids)
        text = joined.encode()
        sizes: Iterable[int] = map(len, ids)
        if len(text) != len(joined):  # characters are not bytes
            sizes = (len(part.encode()) for part in ids)
        stops = np.cumsum(np.fromiter(sizes, np.int64, len(ids)))
        return cls(text, np.concatenate([np.zeros(1, np.int64), stops[:-1]])[: len(ids)], stops)

    def __len__(self) -> int:
        return len(self.starts)

    def strings(self) -> list[str]:
        """Every id, in order.

        Raises:
            UnicodeDecodeError: one is no UTF-8.
        """
        if self.text.isascii():
            text = self.text.decode("ascii")
            return [text[a:b] for a, b in zip(self.starts.tolist(), self.stops.tolist(), strict=True)]
        return self.picked(range(len(self)))

    def picked(self, rows: Iterable[int]) -> list[str]:
        """The ids of some rows.

        Raises:
            UnicodeDecodeError: one is no UTF-8.
        """
        return [self.text[self.starts[row] : self.stops[row]].decode() for row in rows]

    def newest(self, length: int) -> PackedIds:
        """The last `length` of them, at least 1."""
        return PackedIds(self.text, self.starts[-length:], self.stops[-length:])
