"""One unit of labels into rows of a training set: the same code in this process and on executors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._rejects import Rejected, RowReason
from jobs._tables import InputTable, column, read_unit, without_bad_text
from moontide import names, schemas
from moontide.errors import Misconfigured
from moontide.order import MAX_AHEAD_US
from moontide.pit import layout
from moontide.pit.build import Joined, Labels, Sources, build

Ints = NDArray[np.int64]
#: Labels that are read at once, at most.
CHUNK: Final = 1 << 16
BAD_LABEL: Final = "bad_label"
EXPECTED: Final = "expected ids, a finite label, and a time from 1970 to now + 5 min"
_TEXTS: Final = ("user_id", "item_id", "request_id")
_SHOWN: Final = ("user_id", "item_id", "event_timestamp", "label")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What is joined with what, wherever it runs; small enough to be sent to executors.

    Args:
        table: the labels; columns of `schemas.IMPRESSIONS`, then `labels`.
        labels: further label columns.
        sources: folder that `Sources.open` reads: behaviours, versions and item columns as arrays on disk, read-only.
        out: folder of the training set that is being made; its parts go to ``out/requests`` and ``out/impressions``.
        now_us: labels later than this (and 5 min) are rejected.
    """

    table: InputTable
    labels: tuple[str, ...]
    sources: Path
    out: Path
    now_us: int

    def first_row(self, number: int) -> int:
        """`label_row` of the first row of a unit."""
        return sum(unit.rows for unit in self.table.units[:number])


class Made(NamedTuple):
    """Rows of some labels: `requests` and `impressions` in their schemas, and labels that were turned away.

    `labels` is how many were read for it.
    """

    requests: pa.Table
    impressions: pa.Table
    rejects: list[Rejected]
    labels: int


def build_unit(job: TrainingJob, sources: Sources, number: int) -> Iterator[Made]:
    """The rows of one unit (row group) in order, in bounded pieces; every label is in exactly one piece, made or rejected.

    A request is a run of labels of one user, time and `request_id`; none goes beyond its row group, or beyond `CHUNK` rows.
    """
    unit = job.table.units[number]
    row = unit.first_row
    shift = job.first_row(number) - unit.first_row
    schema = sources.columns(job.labels).schema()
    nothing = Joined(layout.REQUESTS_SCHEMA.empty_table(), schema.empty_table())
    for batch in read_unit(job.table, unit, batch_rows=CHUNK):
        text, good, turned_away = checked(batch, unit.path, row, job.now_us)
        labels = _labels(job, sources, text.take(pa.array(good)), shift + row + good)
        yield Made(*nothing, turned_away, len(batch) - len(good))
        for joined in build(labels, sources):
            yield Made(*joined, [], joined.impressions.num_rows)
        row += len(batch)


def checked(batch: pa.RecordBatch, path: str, row: int, now_us: int) -> tuple[pa.RecordBatch, Ints, list[Rejected]]:
    """The batch without text that is none, which of its labels are good, and the others; `row` is its first one's in the file."""
    text, bad = without_bad_text(batch, _TEXTS)
    reasons = _reasons(text, bad, now_us)
    turned_away = [_rejected(text, at, reasons[at], path, row + at) for at in np.flatnonzero(reasons != "").tolist()]
    return text, np.flatnonzero(reasons == ""), turned_away


def _labels(job: TrainingJob, sources: Sources, batch: pa.RecordBatch, rows: Ints) -> Labels:
    """Checked labels as arrays."""
    user_id = column(batch, schemas.IMPRESSIONS.field(names.USER_ID)).dictionary_encode()
    time = column(batch, schemas.IMPRESSIONS.field(names.EVENT_TIMESTAMP)).cast(pa.int64()).to_numpy()
    item = sources.items.rows(column(batch, schemas.IMPRESSIONS.field(names.ITEM_ID)))
    if (item < 0).any():
        raise Misconfigured(
            f"{job.table.uri}: expected the items of the first reading, got others; leave the files alone, run again"
        )
    request_id = column(batch, schemas.IMPRESSIONS.field("request_id")).dictionary_encode().indices
    runs = (user_id.indices.to_numpy(), time, pc.fill_null(request_id, -1).to_numpy(zero_copy_only=False))
    first = np.ones(len(batch), bool)
    first[1:] = np.any([values[1:] != values[:-1] for values in runs], axis=0)
    values = {name: _floats(column(batch, pa.field(name, pa.float32()))) for name in ("label", *job.labels)}
    return Labels(rows, user_id.dictionary_decode(), sources.users.rows(user_id), item, time, first, values)


def _reasons(batch: pa.RecordBatch, bad: NDArray[np.bool_], now_us: int) -> NDArray[np.str_]:
    """(B,) why each label is turned away; empty: it is not."""
    event = column(batch, schemas.IMPRESSIONS.field(names.EVENT_TIMESTAMP)).cast(pa.int64())
    ids = [names.valid_ids(column(batch, schemas.IMPRESSIONS.field(name))) for name in (names.USER_ID, names.ITEM_ID)]
    beyond = pc.or_(pc.less(event, 0), pc.greater(event, now_us + MAX_AHEAD_US))
    checks = [
        (RowReason.BAD_TEXT.value, bad),
        (RowReason.INVALID_ID.value, ~(ids[0] & ids[1])),
        (RowReason.NO_EVENT_TIME.value, event.is_null().to_numpy(zero_copy_only=False)),
        (RowReason.EVENT_TIME_OUT_OF_RANGE.value, pc.fill_null(beyond, False).to_numpy(zero_copy_only=False)),
        (BAD_LABEL, ~np.isfinite(_floats(column(batch, schemas.IMPRESSIONS.field("label"))))),
    ]
    found = np.full(len(batch), "", f"<U{max(len(reason) for reason, _ in checks)}")
    for reason, failed in reversed(checks):
        found[failed] = reason
    return found


def _rejected(batch: pa.RecordBatch, at: int, reason: str, path: str, row: int) -> Rejected:
    shown = {name: _shown(batch[name][at]) for name in _SHOWN if name in batch.schema.names}
    return Rejected(path, row, shown.get(names.ITEM_ID), str(reason), f"{EXPECTED}; got {shown}")


def _shown(value: pa.Scalar) -> str:
    try:
        return str(value.as_py())[:80]
    except (OverflowError, ValueError):
        # A time outside the calendar.
        return f"{value.type} {value.value}"


def _floats(values: pa.Array) -> NDArray[np.float32]:
    """Null as NaN."""
    found: NDArray[np.float32] = values.to_numpy(zero_copy_only=False).astype(np.float32)
    return found


class Sink:
    """Writes what `build_unit` yields as parts of ``job.out``, named after `prefix`. A context manager.

    Parts are read in the order of their names, so an executor that has a run of units from number n on uses
    ``f"part-{n:08d}"``: whoever writes several runs must not let them interleave.
    """

    def __init__(self, job: TrainingJob, sources: Sources, prefix: str) -> None:
        self._requests = layout.PartWriter(job.out / layout.REQUESTS, layout.REQUESTS_SCHEMA, prefix=prefix)
        self._impressions = layout.PartWriter(job.out / layout.IMPRESSIONS, sources.columns(job.labels).schema(), prefix=prefix)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._requests.__exit__(kind, error, trace)
        self._impressions.__exit__(kind, error, trace)

    def add(self, made: Made) -> None:
        """Write one piece; rejects are the caller's."""
        self._requests.write(made.requests)
        self._impressions.write(made.impressions)
