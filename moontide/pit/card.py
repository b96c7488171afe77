"""What is in a training set, counted from its files: the data card, and the check that no label was lost or doubled.

I impressions of a piece, R requests of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.errors import Transient

Ints = NDArray[np.int64]


class Fingerprint:
    """A set of row numbers as their count and the sum of their hashes: equal for equal sets, whatever the order they come in."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, rows: Ints) -> None:
        """Take (B,) row numbers; one that is taken twice counts twice."""
        self.count += len(rows)
        self._sum = (self._sum + int(_mixed(rows).sum(dtype=np.uint64))) % (1 << 64)

    def __add__(self, other: Fingerprint) -> Fingerprint:
        both = Fingerprint()
        both.count, both._sum = self.count + other.count, (self._sum + other._sum) % (1 << 64)
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and (self.count, self._sum) == (other.count, other._sum)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def below(cls, rows: int) -> Fingerprint:
        """Of the rows 0 to `rows` - 1."""
        made = cls()
        for start in range(0, rows, 1 << 20):
            made.add(np.arange(start, min(start + (1 << 20), rows)))
        return made


def _mixed(rows: Ints) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea, Flood 2014) of each number."""
    z = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


class Tally:
    """Counts over the pieces of a training set, in memory that does not grow with its labels.

    Args:
        items: how many items there are.
        vectors: how many rows the embedding log has.
        labels: further label columns.
        cutoff: microseconds, the encoder's training cut-off; None: unknown.

    Attributes:
        rows: which label rows were met.
        used: (vectors,) bool, rows of the log that something points to.
    """

    def __init__(self, items: int, vectors: int, labels: Sequence[str], cutoff: int | None) -> None:
        self.rows = Fingerprint()
        self.used = np.zeros(vectors, bool)
        self._labelled = np.zeros(items, bool)
        self._with_vector = np.zeros(items, bool)
        self._users: set[str] = set()
        self._sums = dict.fromkeys(("label", *labels), 0.0)
        self._known = dict.fromkeys(("label", *labels), 0)
        self._counts: dict[str, int] = {}
        self._cutoff = cutoff
        self._times: tuple[int, int] | None = None
        self._last = (-1, -1)

    def add(self, rows: pa.Table, requests: pa.Table, place: Ints) -> None:
        """Count a piece: I impressions, their R requests, and (I,) the row of each impression's request.

        Raises:
            Transient: label rows that do not rise.
        """
        label_row, request = rows["label_row"].to_numpy(), rows["request"].to_numpy()
        if not len(label_row):
            return
        if label_row[0] <= self._last[0] or (np.diff(label_row) <= 0).any():
            raise Transient("training set: expected label rows to rise, got others; make it anew")
        self.rows.add(label_row)
        fresh = np.diff(request, prepend=self._last[1]) != 0
        self._last = (int(label_row[-1]), int(request[-1]))
        item, vector = rows["item"].to_numpy(), rows["vector"].to_numpy()
        time = requests["event_timestamp"].cast(pa.int64()).to_numpy()[place]
        known = requests["known"].to_numpy()[place]
        self._history(requests, place)
        self._labelled[item] = True
        self._with_vector[item[vector >= 0]] = True
        self.used[vector[vector >= 0]] = True
        self._users.update(pc.unique(requests["user_id"]).to_pylist())
        for name in self._sums:
            values = rows[name].to_numpy()
            self._sums[name] += float(np.nansum(values, dtype=np.float64))
            self._known[name] += int(np.isfinite(values).sum())
        first, last = int(time.min()), int(time.max())
        self._times = (first, last) if self._times is None else (min(first, self._times[0]), max(last, self._times[1]))
        positives = int((rows["label"].to_numpy() > 0).sum())
        self._count("positives", positives)
        self._count("requests", int(fresh.sum()))
        self._count("requests_without_behaviours", int((fresh & (known == 0)).sum()))
        self._count("impressions_with_vector", int((vector >= 0).sum()))
        self._count("missing", int(rows["missing"].to_numpy().sum(dtype=np.int64)))
        self._count("before_cutoff", 0 if self._cutoff is None else int((time < self._cutoff).sum()))

    def _history(self, requests: pa.Table, place: Ints) -> None:
        vectors = requests["history_vectors"].combine_chunks()
        flat = pc.list_flatten(vectors).to_numpy()
        self.used[flat[flat >= 0]] = True
        sizes = pc.list_value_length(vectors).to_numpy().astype(np.int64)
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        found = np.concatenate([np.zeros(1, np.int64), np.cumsum(flat >= 0)])[bounds]
        self._count("behaviours", int(sizes[place].sum()))
        self._count("behaviours_with_vector", int(np.diff(found)[place].sum()))

    def _count(self, name: str, by: int) -> None:
        self._counts[name] = self._counts.get(name, 0) + by

    def card(self) -> dict[str, Any]:
        """The counted part of ``card.json``; shares are None where there is nothing to share."""
        count = {name: self._counts.get(name, 0) for name in _COUNTED}
        rows, seen = self.rows.count, count["behaviours"]
        labels = {name: {"rows": self._known[name], "sum": self._sums[name]} for name in self._sums}
        return {
            "rows": rows, "positives": count["positives"], "requests": count["requests"], "users": len(self._users),
            "items": int(self._labelled.sum()), "vectors": int(self.used.sum()), "labels": labels,
            "coverage": {
                "impressions": _share(count["impressions_with_vector"], rows),
                "behaviours": _share(count["behaviours_with_vector"], seen),
                "weights": "behaviours are counted once for each impression of their request",
            },
            "missing": {"mean": _share(count["missing"], rows), "share": _share(count["missing"], seen)},
            "cold": {
                "requests_without_behaviours": count["requests_without_behaviours"],
                "items_never_with_vector": int((self._labelled & ~self._with_vector).sum()),
            },
            "history": {"mean_length": _share(seen, rows)},
            "time": None if self._times is None else {"first": shown(self._times[0]), "last": shown(self._times[1])},
            "impressions_before_encoder_cutoff": None if self._cutoff is None else count["before_cutoff"],
        }  # fmt: skip


_COUNTED = (
    "positives", "requests", "requests_without_behaviours", "impressions_with_vector", "missing", "before_cutoff", "behaviours",
    "behaviours_with_vector",
)  # fmt: skip


def _share(part: int, whole: int) -> float | None:
    return None if not whole else part / whole


def shown(micros: int) -> str:
    """A time for people: ISO 8601 in UTC."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + np.timedelta64(micros, "us").item()).isoformat()
