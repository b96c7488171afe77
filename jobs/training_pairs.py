"""Catalog, sales, behaviours and searches -> pairs that an encoder is trained on: Parquet and a data card."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import date
from functools import reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from encoders.arguments import day, not_negative
from encoders.item import TITLE_MAX_CHARS
from jobs._catalog import Rules
from jobs._cli import Exit, add_rejects_flag, add_spark_flags, moment, now_us, parser, positive, run, say, settings_of
from jobs._pairs_card import Run, data_card
from jobs._pairs_content import content_pairs
from jobs._pairs_groups import PAIR, UNIT, Drawn, basket_groups, draw_pairs, session_groups, with_log_q
from jobs._pairs_items import DELETED, SUPERSEDED, ItemSource, item_rows, open_items
from jobs._pairs_negatives import with_negatives
from jobs._pairs_rows import AFTER_CUTOFF, ROWS, PairReason, ReadRows, Rows, detail_of, open_rows
from jobs._pairs_searches import outcomes, own_photos, search_pairs
from jobs._pairs_write import ROWS as WRITTEN_ROWS
from jobs._pairs_write import WRITTEN, PairFolder, WritePairs
from jobs._rejects import Rejected, RejectFile
from jobs._spark import arrow_ddl, default_partitions, drain, kept, numbers, spark_session, start_jvm
from moontide import schemas
from moontide.errors import Misconfigured

_TABLES = ("transactions", "behaviours", "searches")
_LEFT_OUT = (AFTER_CUTOFF, SUPERSEDED, DELETED)
_FILE_ROWS = 250_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings = settings_of(args.home)
    folder = PairFolder(args.out)
    folder.require_ours()
    cutoff_us = None if args.cutoff is None else moment(f"{args.cutoff}T00:00:00Z")
    source = open_items(args.data, None if args.cutoff is None else args.cutoff.isoformat(), args.snapshot_time)
    tables = [rows for name in _TABLES if (rows := open_rows(args.data, name)) is not None]
    job = Job(args, source, tables, Rules(now_us(), TITLE_MAX_CHARS, args.snapshot_time), cutoff_us)
    total = sum(rows.table.rows for rows in tables) + (len(source.examples) if source.table is None else source.table.rows)
    start_jvm()
    with spark_session("moontide training_pairs", args.master) as spark:
        partitions = args.partitions or default_partitions(total, spark.sparkContext.defaultParallelism)
        spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
        made = job.make(spark)
        count = made.pairs.count()
        if not count:
            raise Misconfigured(
                f"--data {args.data}: expected at least one pair of {list(args.kinds)}, got none; see --help and the docs"
            )
        path = args.rejects or settings.home / "rejects" / "training_pairs.parquet"
        rejected = _reject(made.rejects, job, path, dry=args.dry_run)
        if args.dry_run:
            say(f"{total:,} rows: {rejected:,} rejected, {count:,} pairs would be written to {folder.path}")
        else:
            folder.open()
            files = _write(made.pairs, count, folder.part)
            folder.commit(data_card(made, files))
            say(f"{total:,} rows: {rejected:,} rejected, {count:,} pairs written to {folder.path}")
        spark.catalog.clearCache()
    return Exit.REJECTED if rejected else Exit.DONE


class Job:
    """From checked tables to pairs.

    Args:
        args: the flags.
        source: where items come from.
        tables: what the folder has of sales, behaviours and searches.
        rules: what catalog rows are checked against.
        cutoff_us: rows of that moment and later are left out; None for all.
    """

    def __init__(
        self, args: argparse.Namespace, source: ItemSource, tables: list[Rows], rules: Rules, cutoff_us: int | None
    ) -> None:
        self._args, self._source, self._tables, self._rules, self._cutoff_us = args, source, tables, rules, cutoff_us

    def file(self, place: int, source: int) -> str:
        """The file of a rejected row."""
        if place:
            return self._tables[place - 1].table.files[source]
        return f"{self._args.data}/items.csv" if self._source.table is None else self._source.table.files[source]

    @property
    def started_us(self) -> int:
        """When the run began."""
        return self._rules.now_us

    def make(self, spark: SparkSession) -> Run:
        """All pairs, and everything the card counts; nothing is computed yet but what is cached."""
        every = kept(item_rows(spark, self._source, self._rules, self._cutoff_us))
        items = every.where("reason is null")
        checked = {rows.what: kept(self._checked(spark, items, place)) for place, rows in enumerate(self._tables, start=1)}
        good = {name: rows.where("reason is null").drop("reason") for name, rows in checked.items()}
        drawn, own = self._drawn(good, items)
        content = kept(content_pairs(items, frozenset(self._args.kinds)))
        pairs = reduce(DataFrame.unionByName, [content, *(d.pairs.select(*PAIR) for d in drawn)])
        counts = [content.groupBy("kind", "item_id").agg((F.count("*") * UNIT).alias("expected"))]
        pairs = with_log_q(pairs, reduce(DataFrame.unionByName, [*counts, *(d.expected for d in drawn)]))
        pairs = with_negatives(pairs, items, [d.groups for d in drawn], self._args.seed)
        pairs = pairs.withColumn("weight", F.lit(1.0).cast("float")).select(*WRITTEN_ROWS.names)
        reasons = [
            rows.select("place", "source", "row", "item_id", "reason", F.lit(None).cast("string").alias("detail"))
            for rows in checked.values()
        ]
        reasons.append(every.select(F.lit(0).alias("place"), "source", "row", "item_id", "reason", "detail"))
        reasons += [rows.withColumn("detail", F.lit(None).cast("string")) for rows in own]
        rejects = kept(reduce(DataFrame.unionByName, reasons).where("reason is not null"))
        left_out = [d.left_out for d in drawn] + [rejects.where(F.col("reason").isin(*_LEFT_OUT)).groupBy("reason").count()]
        return Run(
            kept(pairs), rejects.where(~F.col("reason").isin(*_LEFT_OUT)), reduce(DataFrame.union, left_out),
            {**good, "items": items}, self._facts(),
        )  # fmt: skip

    def _drawn(self, good: dict[str, DataFrame], items: DataFrame) -> tuple[list[Drawn], list[DataFrame]]:
        """What was drawn from each table, and rejects found on the way."""
        kinds, seed, most = set(self._args.kinds), self._args.seed, self._args.pairs_per_group
        drawn: list[Drawn] = []
        own: list[DataFrame] = []
        if "transactions" in good and "basket" in kinds:
            drawn.append(draw_pairs(basket_groups(good["transactions"]), "basket", seed, most))
        if "behaviours" in good and "session" in kinds:
            drawn.append(draw_pairs(session_groups(good["behaviours"]), "session", seed, most))
        if "searches" in good and kinds & {"search", "click"}:
            found = kept(outcomes(good["searches"], good.get("behaviours")))
            own.append(own_photos(found, items))
            both = search_pairs(found, items, seed, most)
            drawn += [d for d, kind in zip(both, ("search", "click"), strict=True) if kind in kinds]
        return drawn, own

    def _checked(self, spark: SparkSession, items: DataFrame, place: int) -> DataFrame:
        """Rows of a table; one of an item that is not in the catalog has its reason. A search may name no item."""
        rows = self._tables[place - 1]
        read = ReadRows(rows, place, self._rules.now_us, self._cutoff_us)
        found = numbers(spark, len(rows.table.units)).mapInArrow(read, arrow_ddl(ROWS))
        known = items.select("item_id", F.lit(True).alias("known"))
        unknown = F.col("item_id").isNotNull() & F.col("known").isNull()
        reason = F.coalesce("reason", F.when(unknown, F.lit(PairReason.UNKNOWN_ITEM.value)))
        return found.join(known, "item_id", "left").withColumn("reason", reason).drop("known")

    def _facts(self) -> dict[str, object]:
        rows = {table.what: table.table.rows for table in self._tables}
        return {
            "seed": self._args.seed,
            "cutoff": None if self._args.cutoff is None else self._args.cutoff.isoformat(),
            "pairs_per_group": self._args.pairs_per_group,
            "rows": rows,
            "source": self._source.licence,
            "items_left_out": dict(self._source.left_out),
        }


def _write(pairs: DataFrame, count: int, folder: Path) -> dict[str, int]:
    """Rows of each file: pairs of every kind mixed, in an order that depends on the content only."""
    mix = F.xxhash64("kind", "query_item_id", "query_text", "query_image", "item_id", "negative_item_id", "event_us")
    columns = ["mix", "kind", "query_item_id", "query_text", "query_image", "item_id", "negative_item_id", "event_us"]
    mixed = pairs.withColumn("mix", mix).repartitionByRange(-(-count // _FILE_ROWS), *columns)
    ordered = mixed.sortWithinPartitions(*columns).select(*WRITTEN_ROWS.names)
    written = ordered.mapInArrow(WritePairs(folder), arrow_ddl(WRITTEN)).collect()
    return {row.file: int(row.rows) for row in sorted(written)}


def _reject(rejects: DataFrame, job: Job, path: Path, *, dry: bool) -> int:
    bad = kept(rejects.orderBy("place", "source", "row"))
    count = int(bad.count())
    if not dry:
        file = RejectFile(path, at_us=job.started_us)
        file.add(_rejects(bad, job, count))
        file.close()
    return count


def _rejects(bad: DataFrame, job: Job, count: int) -> Iterator[Rejected]:
    for row in drain(bad, count):
        item = row.item_id if row.item_id is None else row.item_id[:80]
        yield Rejected(job.file(row.place, row.source), row.row, item, row.reason, row.detail or detail_of(row.reason))


def _parser() -> argparse.ArgumentParser:
    made = parser("training_pairs", __doc__.split("\n", 1)[0])
    made.add_argument(
        "--data", required=True, metavar="DIR", help="folder with items.csv, or with catalog.parquet (or a URI of one)"
    )
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the pairs; replaced whole")
    made.add_argument("--cutoff", type=_day, metavar="DAY", help="leave out everything of that day (UTC) and later")
    made.add_argument("--seed", type=not_negative, default=0, metavar="N", help="of every draw (default 0)")
    made.add_argument("--kinds", nargs="+", choices=schemas.PAIR_KINDS, default=schemas.PAIR_KINDS, metavar="KIND",
                      help=f"of {', '.join(schemas.PAIR_KINDS)} (default: all that the data has)")  # fmt: skip
    made.add_argument(
        "--pairs-per-group", type=positive, default=20, metavar="K", help="most pairs of a basket, session or search"
    )
    made.add_argument(
        "--snapshot-time", type=moment, metavar="TIME", help="as in backfill_embeddings, for a catalog without times"
    )
    add_rejects_flag(made)
    add_spark_flags(made)
    return made


def _day(text: str) -> date:
    found = date.fromisoformat(day(text))
    moment(f"{found}T00:00:00Z")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
