"""Chunks of (user, item) pairs into tiers, offline and online; the same code in the driver and on executors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.accumulators import Accumulator

from jobs._rejects import Rejected, RowReason
from jobs._tables import InputTable, Unit, column, open_table, read_unit, without_bad_text
from moontide import names
from moontide.errors import Misconfigured
from moontide.features import compute_tiers
from moontide.settings import Settings
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from moontide.stores import online_store
from moontide.stores.base import OnlineStore
from moontide.stores.kv import Clock, wall_clock
from moontide.stores.offline import OfflineTables
from moontide.views import simtier_view

PAIRS: Final = pa.schema([("user_id", pa.string()), ("item_id", pa.string())])
MAX_CANDIDATES: Final = 1_000_000
#: Pairs of one call: bounds memory and the store's transactions.
CHUNK: Final = 4_096
_FLUSH_ROWS: Final = 50_000

Chunk = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class TierJob:
    """What computes tiers, wherever it runs.

    Args:
        settings: the site; its online store is read and written.
        spec: names the view.
        space: the spec's space.
        clock: `computed_at` of each chunk.
    """

    settings: Settings
    spec: SimTierSpec
    space: EmbeddingSpace
    clock: Clock = wall_clock

    def run(self, chunks: Iterable[Chunk], *, writer: str) -> Iterator[int]:
        """Compute each chunk and store it offline and online; yields pairs stored, as they are."""
        sink = TierSink(self, OfflineTables(self.settings.offline_root), writer)
        with closing(online_store(self.settings)) as store:
            for chunk in chunks:
                yield sink.add(compute_tiers(store, self.space, self.spec, chunk, clock=self.clock), store)
            sink.flush(store)


class TierSink:
    """Commits rows offline some 50,000 at a time, and online right after."""

    def __init__(self, job: TierJob, tables: OfflineTables, writer: str) -> None:
        self._view = simtier_view(job.spec)
        self._tables, self._writer = tables, writer
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: pa.Table, store: OnlineStore) -> int:
        """Take rows; returns how many."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        if self._rows >= _FLUSH_ROWS:
            self.flush(store)
        return int(rows.num_rows)

    def flush(self, store: OnlineStore) -> None:
        """Store what was taken."""
        if self._rows:
            self._tables.append(self._view, pa.concat_tables(self._waiting).combine_chunks(), writer=self._writer)
            for table in self._waiting:
                store.write_rows(self._view, table)
        self._waiting, self._rows = [], 0


class ComputeTiers:
    """`mapInArrow` over pairs sorted by user: yields nothing but the number of pairs stored."""

    def __init__(self, job: TierJob, done: Accumulator[int]) -> None:
        self._job, self._done = job, done

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Compute one partition."""
        context = TaskContext.get()
        writer = f"simtier-{0 if context is None else context.partitionId():05d}"
        pairs = 0
        for count in self._job.run((c for batch in batches for c in chunks_of(batch)), writer=writer):
            self._done.add(count)
            pairs += count
        yield pa.RecordBatch.from_arrays([pa.array([pairs], pa.int64())], names=["rows"])


class ReadPairs:
    """`mapInArrow` over unit numbers: valid pairs."""

    def __init__(self, table: InputTable) -> None:
        self._table = table

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the units named in `batches`."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from read_pairs(self._table, self._table.units[number])


def open_ids(uri: str, required: tuple[str, ...], *, what: str) -> InputTable:
    """Parquet with id columns; raises as `open_table`."""
    return open_table(uri, pa.schema([PAIRS.field(name) for name in required]), required, what=what)


def read_pairs(table: InputTable, unit: Unit) -> Iterator[pa.RecordBatch]:
    """The valid rows of one unit."""
    for batch in read_unit(table, unit, batch_rows=CHUNK):
        text, _ = without_bad_text(batch, table.columns)
        found = pa.RecordBatch.from_arrays([column(text, f) for f in PAIRS], schema=PAIRS)
        yield found.filter(pa.array(_valid(found)))


def rejects_of(table: InputTable) -> Iterator[Rejected]:
    """Rows whose ids cannot be ids."""
    for unit in table.units:
        at = unit.first_row
        for batch in read_unit(table, unit, batch_rows=CHUNK):
            text, bad = without_bad_text(batch, table.columns)
            for row in np.flatnonzero(~_valid(text)).tolist():
                found = {name: text[name][row].as_py() for name in table.columns}
                shown = {name: None if value is None else str(value)[:80] for name, value in found.items()}
                reason = RowReason.BAD_TEXT if bad[row] else RowReason.INVALID_ID
                detail = f"expected 1 to 64 characters of [A-Za-z0-9._:-], got {shown}"
                yield Rejected(unit.path, at + row, shown.get(names.ITEM_ID), reason.value, detail)
            at += len(batch)


def chunks_of(batch: pa.RecordBatch) -> Iterator[dict[str, list[str]]]:
    """Candidate lists per user, in row order, each pair once, at most `CHUNK` pairs together."""
    for start in range(0, len(batch), CHUNK):
        chunk: dict[str, dict[str, None]] = {}
        part = batch.slice(start, CHUNK)
        for user, item in zip(part["user_id"].to_pylist(), part["item_id"].to_pylist(), strict=True):
            chunk.setdefault(user, {})[item] = None
        yield {user: list(items) for user, items in chunk.items()}


def valid_ids(table: InputTable, name: str) -> Iterator[list[str]]:
    """The valid ids of one column, in batches."""
    for unit in table.units:
        for batch in read_unit(table, unit, batch_rows=CHUNK):
            text, _ = without_bad_text(batch, table.columns)
            yield text.filter(pa.array(_valid(text)))[name].to_pylist()


def candidate_list(table: InputTable) -> list[str]:
    """Every valid candidate once, in order.

    Raises:
        Misconfigured: more than a million: a list for every user must be short.
    """
    found = dict.fromkeys(item for ids in valid_ids(table, names.ITEM_ID) for item in ids)
    if len(found) > MAX_CANDIDATES:
        raise Misconfigured(f"--candidates: expected at most {MAX_CANDIDATES:,} items, got {len(found):,}; use --pairs")
    return list(found)


def cross(users: Iterable[str], candidates: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    """Chunks of users x candidates, at most `CHUNK` pairs each."""
    waiting: dict[str, list[str]] = {}
    for user in users:
        for start in range(0, len(candidates), CHUNK):
            part = list(candidates[start : start + CHUNK])
            if waiting and (user in waiting or sum(map(len, waiting.values())) + len(part) > CHUNK):
                yield waiting
                waiting = {}
            waiting[user] = part
    if waiting:
        yield waiting


def _valid(batch: pa.RecordBatch) -> np.ndarray:
    ok = np.ones(len(batch), np.bool_)
    for name in batch.schema.names:
        values = batch[name]
        values = pc.cast(values, pa.string()) if not pa.types.is_string(values.type) else values
        ok &= names.valid_ids(values)
    return ok
