"""Behaviour Parquet -> the last behaviours of each user, merged into what is there: offline tables, then online store."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere
from pyspark.storagelevel import StorageLevel

from jobs._behaviours import FOLDED, ROWS, Fold, ReadBehaviours
from jobs._cli import Exit, add_rejects_flag, add_spark_flags, now_us, parser, run, say, site
from jobs._frames import by_date, latest_offline
from jobs._load import load_everywhere
from jobs._progress import Progress
from jobs._rejects import Rejected, RejectFile
from jobs._spark import (
    arrow_ddl,
    default_partitions,
    drain,
    effective_master,
    numbers,
    require_reachable,
    spark_session,
    start_jvm,
)
from jobs._tables import InputTable, event_days, open_table
from jobs._write import WRITTEN, WriteSequences
from moontide import names, schemas
from moontide.errors import Misconfigured
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import ViewKind, ViewSpec

_EXPECTED = "expected ids, an action of 1 to 64 characters, and a time from 1970 to now + 5 min"
_HEAD = ("event_timestamp", "created", "item_ids", "actions", "times")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, live = site(args.home)
    known = {v.name: v for v in live.views() if v.kind is ViewKind.SEQUENCE}
    if args.sequence not in known:
        raise Misconfigured(f"--sequence: expected one of {sorted(known)}, got {args.sequence!r}; name it in spaces.toml")
    view = known[args.sequence]
    table = open_table(args.behaviours, schemas.BEHAVIOURS, tuple(schemas.BEHAVIOURS.names), what="behaviours")
    require_reachable(settings, effective_master(args.master), index=False)
    now = now_us()
    start_jvm()
    if not args.dry_run:
        with closing(online_store(settings)) as store:
            # No rows: only whether this process may write to the view, before anything is written offline.
            store.write_rows(view, view.table.empty_table())
    with spark_session("moontide user_sequences", args.master) as spark:
        partitions = args.partitions or default_partitions(table.rows, spark.sparkContext.defaultParallelism)
        spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
        rows = numbers(spark, len(table.units)).mapInArrow(ReadBehaviours(table, now), arrow_ddl(ROWS))
        path = args.rejects or settings.home / "rejects" / "user_sequences.parquet"
        rejected = _reject(rows, table, path, now, dry=args.dry_run)
        good = _with_old(spark, rows.where("reason is null"), settings, view)
        folded = fold(good, partitions, settings.sequence_length)
        if args.dry_run:
            say(f"behaviours {table.rows:,} rows: {rejected:,} rejected, sequences of {folded.count():,} users would change")
        else:
            written = _write(by_date(folded, partitions, event_days(table), key=names.USER_ID), settings, view, table.rows, now)
            say(f"behaviours {table.rows:,} rows: {rejected:,} rejected, sequences of {written:,} users changed")
            total = load_everywhere(spark, settings, view)
            say(f"online {view.name}: {total.applied:,} users changed, {total.equal:,} unchanged")
    return Exit.REJECTED if rejected else Exit.DONE


def fold(rows: DataFrame, partitions: int, length: int) -> DataFrame:
    """Rows of `FOLDED` for users whose last `length` behaviours hold a new one."""
    together = rows.repartition(partitions, "user_id")
    together = together.sortWithinPartitions("user_id", "event_us", "item_id", "action", F.desc("old"))
    return together.mapInArrow(Fold(length), arrow_ddl(FOLDED))


def _with_old(spark: SparkSession, rows: DataFrame, settings: Settings, view: ViewSpec) -> DataFrame:
    """`rows` and the behaviours of the sequences that are there, marked `old`."""
    heads = latest_offline(spark, settings, view, _HEAD)
    if heads is None:
        return rows
    each = F.explode(F.arrays_zip("head.item_ids", "head.actions", "head.times"))
    nothing = {"source": F.lit(0), "row": F.lit(0).cast("long"), "reason": F.lit(None).cast("string"), "old": F.lit(True)}
    old = heads.select("key", each.alias("b")).select(
        F.col("key").alias("user_id"),
        F.col("b.item_ids").alias("item_id"),
        F.col("b.actions").alias("action"),
        F.col("b.times").alias("event_us"),
    )
    return rows.unionByName(old.withColumns(nothing))


def _write(folded: DataFrame, settings: Settings, view: ViewSpec, total: int, now: int) -> int:
    done = folded.sparkSession.sparkContext.accumulator(0)
    job = WriteSequences(settings.offline_root, view, now, done)
    with Progress("sequences", total, lambda: done.value):
        return sum(int(row.rows) for row in folded.mapInArrow(job, arrow_ddl(WRITTEN)).collect())


def _reject(rows: DataFrame, table: InputTable, path: Path, now: int, *, dry: bool) -> int:
    bad = rows.where("reason is not null").select("source", "row", "item_id", "user_id", "reason").persist(StorageLevel.DISK_ONLY)
    count = int(bad.count())
    if not dry:
        file = RejectFile(path, at_us=now)
        file.add(_rejects(bad, table, count))
        file.close()
    bad.unpersist()
    return count


def _rejects(bad: DataFrame, table: InputTable, count: int) -> Iterator[Rejected]:
    for row in drain(bad, count):
        item = row.item_id if row.item_id is None else row.item_id[:80]
        detail = f"user {str(row.user_id)[:80]!r}; {_EXPECTED}"
        yield Rejected(table.files[row.source], row.row, item, row.reason, detail)


def _parser() -> argparse.ArgumentParser:
    made = parser("user_sequences", __doc__.split("\n", 1)[0])
    made.add_argument("--behaviours", required=True, metavar="PATH", help="Parquet file, or folder of them, or a URI")
    made.add_argument("--sequence", default=names.USER_SEQUENCE, metavar="VIEW", help="sequence view (default user_sequence)")
    add_rejects_flag(made)
    add_spark_flags(made)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
