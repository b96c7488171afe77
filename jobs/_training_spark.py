"""Labels into a training set on Spark: `jobs._training_set.build_unit` on executors, which write the parts themselves.

A task has a run of units (row groups of the labels) and opens what they are joined with as arrays mapped into memory, so
neither a user with a million behaviours nor a partition of one user is ever whole in an executor. The folders ``job.sources``
and ``job.out`` must be on a file system that driver and executors share under one path (local disk with ``local[*]``; NFS, a
FUSE mount of HDFS or of a bucket on a cluster). Parts are named after their first unit, so their order is the labels' order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyspark import TaskContext
from pyspark.accumulators import Accumulator
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from jobs._progress import Progress
from jobs._rejects import Rejected
from jobs._spark import arrow_ddl, drain, kept, spark_session
from jobs._training_set import Sink, TrainingJob, build_unit
from moontide.pit import layout
from moontide.pit.build import Sources

#: Rejected labels, and per task one row without a reason that says how many labels it took.
TOLD: Final = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("item_id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("labels", pa.int64()),
    ]
)
ATTEMPTS: Final = ".attempts"


def build_on_spark(
    job: TrainingJob, reject: Callable[[Iterable[Rejected]], None], *, master: str | None, partitions: int | None = None
) -> int:
    """Build every unit and leave its parts in ``job.out``; the same rows as building them in this process.

    Args:
        job: its folders are seen by every executor.
        reject: takes the labels that were turned away, in order of the input.
        master: as `spark_session`.
        partitions: tasks; default: up to eight a core, at most one per unit.

    Returns:
        Labels taken, made or rejected.

    Raises:
        Misconfigured: an executor does not see ``job.sources``; or what building a unit raises.
        Transient: Spark failed. Run again: parts that are there are written over with the same rows.
    """
    units = len(job.table.units)
    with spark_session("moontide training_set", master) as spark:
        done = spark.sparkContext.accumulator(0)
        tasks = max(1, min(units, partitions or 8 * spark.sparkContext.defaultParallelism))
        numbered = spark.range(0, units, 1, numPartitions=tasks)
        told = kept(numbered.mapInArrow(BuildUnits(job, done), arrow_ddl(TOLD)))
        with Progress("training set", job.table.rows, lambda: done.value):
            labels, rejects = told.agg(F.sum("labels"), F.count("reason")).first() or (0, 0)
        bad = told.where("reason is not null").orderBy("source", "row") if rejects else None
        if bad is not None:
            reject(Rejected(r.source, r.row, r.item_id, r.reason, r.detail) for r in drain(kept(bad), rejects))
            bad.unpersist()
        told.unpersist()
    shutil.rmtree(job.out / ATTEMPTS, ignore_errors=True)
    if not units:
        with Sink(job, Sources.open(job.sources), _prefix(0)):
            pass
    return int(labels or 0)


class BuildUnits:
    """`mapInArrow` over rising unit numbers: writes the parts of one task, yields rows of `TOLD`."""

    def __init__(self, job: TrainingJob, done: Accumulator[int]) -> None:
        self._job, self._done = job, done

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Build one partition; one without units writes nothing."""
        numbers = [number for batch in batches for number in batch.column(0).to_pylist()]
        if not numbers:
            return
        context = TaskContext.get()
        attempt = 0 if context is None else context.taskAttemptId()
        # Of a task that Spark runs twice at once both attempts write, each in a folder of its own.
        staged = self._job.out / ATTEMPTS / f"{numbers[0]:08d}-{attempt}"
        shutil.rmtree(staged, ignore_errors=True)
        labels = 0
        sources = Sources.open(self._job.sources)
        with Sink(replace(self._job, out=staged), sources, _prefix(numbers[0])) as sink:
            for number in numbers:
                for made in build_unit(self._job, sources, number):
                    sink.add(made)
                    labels += made.labels
                    self._done.add(made.labels)
                    if made.rejects:
                        yield _told(made.rejects)
        for folder in (layout.REQUESTS, layout.IMPRESSIONS):
            publish(staged / folder, self._job.out / folder)
        shutil.rmtree(staged)
        yield pa.RecordBatch.from_pylist([{"labels": labels}], schema=TOLD)


def publish(staged: Path, out: Path) -> None:
    """Move finished parts to where they are read; each appears whole."""
    out.mkdir(parents=True, exist_ok=True)
    for part in sorted(staged.glob("*.parquet")):
        part.replace(out / part.name)


def _prefix(unit: int) -> str:
    return f"part-{unit:08d}"


def _told(rejects: list[Rejected]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{**r._asdict(), "labels": 0} for r in rejects], schema=TOLD)
