"""Behaviour rows into sequences: checks, and a streaming fold over rows sorted by user and time (B rows, L behaviours kept)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._rejects import RowReason
from jobs._tables import InputTable, column, read_unit, without_bad_text
from moontide import names, schemas
from moontide.order import MAX_AHEAD_US
from moontide.sequences import Behaviour, BehaviourSequence

ACTION_MAX_CHARS: Final = 64
#: What `check` yields; `old` rows come from the sequence that is there.
ROWS: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("action", pa.string()),
        ("event_us", pa.int64()),
        ("old", pa.bool_()),
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),
    ]
)
#: What `Fold` yields: changed sequences.
FOLDED: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("event_us", pa.int64()),
        ("item_ids", schemas.STRINGS),
        ("actions", schemas.STRINGS),
        ("times", pa.list_(pa.int64())),
        ("sequence_version", pa.int64()),
    ]
)
_TEXTS: Final = ("user_id", "item_id", "action")
_BATCH_ROWS: Final = 16_384


class ReadBehaviours:
    """`mapInArrow` over unit numbers: checked behaviour rows."""

    def __init__(self, table: InputTable, now_us: int) -> None:
        self._table, self._now_us = table, now_us

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the units named in `batches`."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                unit = self._table.units[number]
                row = unit.first_row
                for found in read_unit(self._table, unit, batch_rows=_BATCH_ROWS):
                    yield check(found, self._now_us, source=unit.source, first_row=row)
                    row += len(found)


def check(batch: pa.RecordBatch, now_us: int, *, source: int, first_row: int) -> pa.RecordBatch:
    """One batch of a behaviour file as `ROWS`; a row with a `reason` is not to be used."""
    batch, bad = without_bad_text(batch, _TEXTS)
    found = {f.name: column(batch, f) for f in schemas.BEHAVIOURS}
    event = found[names.EVENT_TIMESTAMP].cast(pa.int64())
    size = pc.fill_null(pc.utf8_length(found["action"]), 0)
    checks = [
        (RowReason.BAD_TEXT, bad),
        (RowReason.INVALID_ID, ~(names.valid_ids(found["user_id"]) & names.valid_ids(found["item_id"]))),
        (RowReason.BAD_ACTION, _flags(pc.or_(pc.equal(size, 0), pc.greater(size, ACTION_MAX_CHARS)))),
        (RowReason.NO_EVENT_TIME, _flags(pc.is_null(event))),
        (RowReason.EVENT_TIME_OUT_OF_RANGE, _flags(pc.or_(pc.less(event, 0), pc.greater(event, now_us + MAX_AHEAD_US)))),
    ]
    reasons = np.full(len(batch), None, object)
    for reason, failed in reversed(checks):
        reasons[failed] = reason.value
    columns = {
        **{name: found[name] for name in _TEXTS},
        "event_us": event,
        "old": pa.array(np.zeros(len(batch), np.bool_)),
        "source": pa.array(np.full(len(batch), source, np.int32)),
        "row": pa.array(np.arange(first_row, first_row + len(batch))),
        "reason": pa.array(reasons, pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[f.name] for f in ROWS], schema=ROWS)


class Fold:
    """`mapInArrow` over rows sorted by (user, time, item, action, old first): one row per user whose sequence changes.

    Args:
        length: L.
    """

    def __init__(self, length: int) -> None:
        self._length = length

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Fold one partition; memory holds one batch and L rows."""
        columns = ["user_id", "event_us", "item_id", "action", "old"]
        waiting = pa.Table.from_batches([], pa.schema([ROWS.field(c) for c in columns]))
        for batch in batches:
            rows = pa.concat_tables([waiting, pa.Table.from_batches([batch.select(columns)])]).combine_chunks()
            rows, starts = _distinct(rows)
            if len(starts) > 1:
                yield self._sequences(rows.slice(0, starts[-1]), starts[:-1])
            waiting = rows.slice(max(int(starts[-1]), rows.num_rows - self._length)) if len(starts) else rows
        if waiting.num_rows:
            yield self._sequences(waiting, np.zeros(1, np.int64))

    def _sequences(self, rows: pa.Table, starts: NDArray[np.int64]) -> pa.RecordBatch:
        ends = np.append(starts[1:], rows.num_rows)
        firsts = np.maximum(starts, ends - self._length)
        fresh = np.concatenate([[0], np.cumsum(~rows["old"].to_numpy(zero_copy_only=False))])
        changed = np.flatnonzero(fresh[ends] > fresh[firsts])
        firsts, ends = firsts[changed], ends[changed]
        sizes = ends - firsts
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        picked = rows.take(pa.array(np.arange(offsets[-1]) + np.repeat(firsts - offsets[:-1], sizes))).combine_chunks()
        times, items, actions = (_one(picked[c]) for c in ("event_us", "item_id", "action"))
        versions = _versions(times.to_pylist(), items.to_pylist(), actions.to_pylist(), offsets.tolist())
        columns = [
            _one(rows["user_id"].take(pa.array(firsts))),
            _one(rows["event_us"].take(pa.array(ends - 1))),
            pa.ListArray.from_arrays(pa.array(offsets), items),
            pa.ListArray.from_arrays(pa.array(offsets), actions),
            pa.ListArray.from_arrays(pa.array(offsets), times),
            pa.array(versions, pa.int64()),
        ]
        return pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(columns, FOLDED, strict=True)], schema=FOLDED)


def _versions(times: list[int], items: list[str], actions: list[str], offsets: list[int]) -> list[int]:
    every = list(map(Behaviour, times, items, actions))
    return [BehaviourSequence(tuple(every[a:b])).version for a, b in zip(offsets, offsets[1:], strict=False)]


def _distinct(rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """Sorted rows without repeats, and where each user starts."""
    if not rows.num_rows:
        return rows, np.zeros(0, np.int64)
    fresh = np.zeros(rows.num_rows, np.bool_)
    fresh[0] = True
    for name in ("user_id", "event_us", "item_id", "action"):
        fresh[1:] |= _steps(rows[name])
    rows = rows.filter(pa.array(fresh)).combine_chunks()
    return rows, np.flatnonzero(np.concatenate([[True], _steps(rows["user_id"])]))


def _steps(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(B - 1,) bool: where a value differs from the one before."""
    return _flags(pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)))


def _one(values: pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _flags(values: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = np.asarray(pc.fill_null(values, False))
    return out
