"""Rows that are turned away: why, and the Parquet file they go to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs._cli import complain
from moontide import schemas


class RowReason(StrEnum):
    """Why a row is rejected before its content is looked at; values are stable. `encoders.item.Reason` has the others."""

    NO_ID = "no_id"
    INVALID_ID = "invalid_id"
    BAD_TEXT = "bad_text"
    NO_VERSION = "no_version"
    NO_EVENT_TIME = "no_event_time"
    EVENT_TIME_OUT_OF_RANGE = "event_time_out_of_range"
    BAD_PRICE = "bad_price"
    TITLE_TOO_LONG = "title_too_long"
    NO_CONTENT = "no_content"
    DUPLICATE_ID = "duplicate_id"
    BAD_ACTION = "bad_action"


class Rejected(NamedTuple):
    """One row of a file: `source` its path, `row` its number in that file, from 0."""

    source: str
    row: int
    item_id: str | None
    reason: str
    detail: str


class RejectFile:
    """Collects rejects into one Parquet file, in bounded memory; there is no file where there is no reject.

    Args:
        path: the file; replaced when the first reject comes, removed by `close` where none came.
        at_us: `rejected_at`.
    """

    CHUNK = 10_000

    def __init__(self, path: Path, *, at_us: int) -> None:
        self.path = path
        self.reasons: Counter[str] = Counter()
        self._at_us = at_us
        self._waiting: list[Rejected] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, rejects: Iterable[Rejected]) -> None:
        """Write rejects through, a chunk at a time."""
        for reject in rejects:
            self.reasons[reject.reason] += 1
            self._waiting.append(reject)
            if len(self._waiting) >= self.CHUNK:
                self._flush()

    def close(self) -> int:
        """Make the file whole, print what is in it, and return how many rejects there were."""
        self._flush()
        total = self.reasons.total()
        if self._writer is not None:
            self._writer.close()
            self._part.replace(self.path)
            complain(f"rejected {total:,} rows, see {self.path}: {summary(self.reasons)}")
        else:
            self.path.unlink(missing_ok=True)
        return total

    @property
    def _part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, schemas.REJECTS)
        self._writer.write_table(rejects_table(self._waiting, self._at_us))
        self._waiting = []


def rejects_table(rejects: Sequence[Rejected], at_us: int) -> pa.Table:
    """Rows of `schemas.REJECTS`."""
    columns = {
        "source": [r.source for r in rejects],
        "row": [r.row for r in rejects],
        "item_id": [r.item_id for r in rejects],
        "reason": [r.reason for r in rejects],
        "detail": [r.detail for r in rejects],
        "rejected_at": [at_us] * len(rejects),
    }
    arrays = [pa.array(columns[f.name], f.type) for f in schemas.REJECTS]
    return pa.table(arrays, schema=schemas.REJECTS)


def summary(reasons: Counter[str]) -> str:
    """``bad_price 2, no_id 1``."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items()))
