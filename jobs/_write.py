"""Executors writing folded sequences into the offline table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.accumulators import Accumulator

from moontide.stores.offline import OfflineTables
from moontide.views import ViewSpec

WRITTEN: Final = pa.schema([("rows", pa.int64())])
_FLUSH_BYTES: Final = 32 << 20


class WriteSequences:
    """`mapInArrow` over rows of `jobs._behaviours.FOLDED`: commits them, yields how many."""

    def __init__(self, root: str, view: ViewSpec, now_us: int, done: Accumulator[int]) -> None:
        self._root, self._view, self._now_us, self._done = root, view, now_us, done

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write one partition."""
        waiting: list[pa.Table] = []
        rows = size = 0
        for batch in batches:
            waiting.append(self._rows(batch))
            rows, size = rows + len(batch), size + batch.nbytes
            if size >= _FLUSH_BYTES:
                self._commit(waiting)
                waiting, size = [], 0
        self._commit(waiting)
        yield pa.RecordBatch.from_arrays([pa.array([rows], pa.int64())], schema=WRITTEN)

    def _rows(self, batch: pa.RecordBatch) -> pa.Table:
        created = pa.array(np.full(len(batch), self._now_us))
        columns = {name: batch[name] for name in ("user_id", "item_ids", "actions", "times", "sequence_version")}
        columns |= {"event_timestamp": batch["event_us"], "created": created}
        schema = self._view.table
        return pa.table([columns[f.name].cast(f.type) for f in schema], schema=schema)

    def _commit(self, waiting: list[pa.Table]) -> None:
        if not waiting:
            return
        table = pa.concat_tables(waiting).combine_chunks()
        context = TaskContext.get()
        writer = f"sequences-{0 if context is None else context.partitionId():05d}"
        OfflineTables(self._root).append(self._view, table, writer=writer)
        self._done.add(int(np.sum(table["times"].combine_chunks().value_lengths().to_numpy())))
