"""Tiers computed ahead for (user, item) pairs, or users x a candidate list: offline and online view of one SimTier spec."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jobs._cli import Exit, add_rejects_flag, add_spark_flags, parser, run, say, site
from jobs._progress import Progress
from jobs._rejects import RejectFile
from jobs._simtier import (
    PAIRS,
    Chunk,
    ComputeTiers,
    ReadPairs,
    TierJob,
    candidate_list,
    chunks_of,
    cross,
    open_ids,
    read_pairs,
    rejects_of,
    valid_ids,
)
from jobs._spark import arrow_ddl, default_partitions, effective_master, numbers, require_reachable, spark_session
from jobs._tables import InputTable
from jobs._write import WRITTEN
from moontide import names
from moontide.features import compute_tiers
from moontide.stores import online_store


@dataclass(frozen=True, slots=True)
class Wanted:
    """The pairs asked for: a table of pairs, or users and a candidate list."""

    tables: tuple[InputTable, ...]
    candidates: tuple[str, ...] | None = None

    @property
    def pairs(self) -> int:
        """How many rows there are, before checks."""
        return self.tables[0].rows * (1 if self.candidates is None else len(self.candidates))

    def chunks(self) -> Iterator[Chunk]:
        """Bounded candidate lists per user, read as they are asked for."""
        first = self.tables[0]
        if self.candidates is None:
            return chain.from_iterable(chunks_of(b) for unit in first.units for b in read_pairs(first, unit))
        users = (user for ids in valid_ids(first, names.USER_ID) for user in ids)
        return cross(users, self.candidates)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    made = _parser()
    args = made.parse_args(argv)
    if (args.pairs is None) == (args.users is None) or (args.users is None) != (args.candidates is None):
        made.error("expected --pairs, or --users and --candidates")
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, live = site(args.home)
    live.require_length(settings.sequence_length)
    spec = live.simtier(args.spec)
    wanted = _wanted(args)
    job = TierJob(settings, spec, live.space(spec.space_id))
    on_spark = settings.online == "redis" and wanted.candidates is None
    if on_spark or args.master is not None:
        require_reachable(settings, effective_master(args.master), index=False)
    if settings.online != "lmdb" or not args.dry_run or settings.lmdb_path.exists():
        _require_space(job, wanted)
    rejected = _reject(wanted, args.rejects or settings.home / "rejects" / "simtier.parquet", job.clock(), dry=args.dry_run)
    if args.dry_run:
        say(f"{spec.view}: would compute at most {wanted.pairs - rejected:,} pairs, {rejected:,} input rows rejected")
    else:
        stored = _on_spark(job, wanted, args) if on_spark else _in_driver(job, wanted)
        repeated = "" if wanted.candidates is not None else f", {wanted.pairs - rejected - stored:,} repeated"
        say(f"{spec.view}: {stored:,} pairs stored, {rejected:,} input rows rejected{repeated}")
    return Exit.REJECTED if rejected else Exit.DONE


def _require_space(job: TierJob, wanted: Wanted) -> None:
    """Fail before anything is written where the store holds another space."""
    with closing(online_store(job.settings)) as store:
        compute_tiers(store, job.space, job.spec, next(iter(wanted.chunks()), {}), clock=job.clock)


def _wanted(args: argparse.Namespace) -> Wanted:
    if args.pairs is not None:
        return Wanted((open_ids(args.pairs, (names.USER_ID, names.ITEM_ID), what="pairs"),))
    users = open_ids(args.users, (names.USER_ID,), what="users")
    candidates = open_ids(args.candidates, (names.ITEM_ID,), what="candidates")
    return Wanted((users, candidates), tuple(candidate_list(candidates)))


def _reject(wanted: Wanted, path: Path, at_us: int, *, dry: bool) -> int:
    found = (reject for table in wanted.tables for reject in rejects_of(table))
    if dry:
        return sum(1 for _ in found)
    file = RejectFile(path, at_us=at_us)
    file.add(found)
    return file.close()


def _in_driver(job: TierJob, wanted: Wanted) -> int:
    stored = 0
    with Progress("tiers", wanted.pairs, lambda: stored):
        for count in job.run(wanted.chunks(), writer="simtier"):
            stored += count
    return stored


def _on_spark(job: TierJob, wanted: Wanted, args: argparse.Namespace) -> int:
    table = wanted.tables[0]
    with spark_session("moontide simtier_backfill", args.master) as spark:
        partitions = args.partitions or default_partitions(table.rows, spark.sparkContext.defaultParallelism)
        done = spark.sparkContext.accumulator(0)
        pairs = numbers(spark, len(table.units)).mapInArrow(ReadPairs(table), arrow_ddl(PAIRS))
        together = pairs.repartition(partitions, "user_id").sortWithinPartitions("user_id", "item_id")
        with Progress("tiers", table.rows, lambda: done.value):
            found = together.mapInArrow(ComputeTiers(job, done), arrow_ddl(WRITTEN)).collect()
    return sum(int(row.rows) for row in found)


def _parser() -> argparse.ArgumentParser:
    made = parser("simtier_backfill", __doc__.split("\n", 1)[0])
    made.add_argument("--spec", required=True, metavar="ID", help="SimTier spec, e.g. moon_v2_n20_l50_drop (see spaces.toml)")
    made.add_argument("--pairs", metavar="PATH", help="Parquet of user_id and item_id")
    made.add_argument("--users", metavar="PATH", help="Parquet of user_id; every user with every candidate")
    made.add_argument("--candidates", metavar="PATH", help="Parquet of item_id")
    add_rejects_flag(made)
    add_spark_flags(made)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
