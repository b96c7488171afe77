"""A folder of pairs, written beside the one it replaces and put in its place whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext

from encoders.training.pairs import CARD
from jobs._output import OutputFolder
from moontide import schemas

#: What `WritePairs` reads: `schemas.TRAINING_PAIRS` with the time as microseconds.
ROWS: Final = pa.schema(
    [pa.field("event_us", pa.int64()) if f.name == "event_timestamp" else f.with_nullable(True) for f in schemas.TRAINING_PAIRS]
)
WRITTEN: Final = pa.schema([("file", pa.string()), ("rows", pa.int64())])


class WritePairs:
    """`mapInArrow` over rows of `ROWS`: one file per partition that has rows; a second attempt replaces it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write one partition; yields its file's name and rows."""
        context = TaskContext.get()
        number, attempt = (0, 0) if context is None else (context.partitionId(), context.taskAttemptId())
        part = self._folder / f".part-{number:05d}-{attempt}"
        whole = part.with_name(f"part-{number:05d}.parquet")
        rows = 0
        writer: pq.ParquetWriter | None = None
        for batch in batches:
            if writer is None:
                writer = pq.ParquetWriter(part, schemas.TRAINING_PAIRS, compression="zstd")
            writer.write_table(pairs_table(batch))
            rows += len(batch)
        if writer is not None:
            writer.close()
            part.replace(whole)
            yield pa.RecordBatch.from_arrays([pa.array([whole.name]), pa.array([rows], pa.int64())], schema=WRITTEN)


def pairs_table(batch: pa.RecordBatch) -> pa.Table:
    """Rows of `ROWS` as `schemas.TRAINING_PAIRS`."""
    columns = {name: batch[name] for name in batch.schema.names}
    columns["event_timestamp"] = columns.pop("event_us")
    arrays = [columns[f.name].cast(f.type) for f in schemas.TRAINING_PAIRS]
    return pa.Table.from_arrays(arrays, schema=schemas.TRAINING_PAIRS)


class PairFolder(OutputFolder):
    """The folder of the pairs, whose card names it.

    Args:
        path: the folder; may exist only as the output of an earlier run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, CARD)

    def commit(self, card: dict[str, Any]) -> None:
        """Write the card and put the new folder in the place of the old one."""
        text = json.dumps(card, indent=2, ensure_ascii=False, sort_keys=True)
        (self.part / CARD).write_text(text + "\n", encoding="utf-8")
        for left in self.part.glob(".part-*"):
            left.unlink()
        self.replace()
