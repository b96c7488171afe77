"""Fold the small files of the offline tables into large ones; every distinct row stays."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta

from jobs._cli import MOST_DAYS, Exit, between, parser, positive, run, say, site
from moontide.errors import Misconfigured
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_compact import compact
from moontide.views import ViewSpec


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, live = site(args.home)
    known = {view.name: view for view in live.views()}
    unknown = [name for name in args.view or [] if name not in known]
    if unknown:
        raise Misconfigured(f"--view: expected names among {sorted(known)}, got {unknown}")
    tables = OfflineTables(settings.offline_root)
    for name in args.view or sorted(known):
        say(_look(tables, known[name]) if args.dry_run else _compact(tables, known[name], args))
    return Exit.DONE


def _look(tables: OfflineTables, view: ViewSpec) -> str:
    files = tables.tree.files(tables.folder(view))
    dates = len({f.partition for f in files})
    return (
        f"{view.name}: {len(files):,} files of {dates:,} dates, {sum(f.size for f in files) / 1e6:,.1f} MB; nothing was written"
    )


def _compact(tables: OfflineTables, view: ViewSpec, args: argparse.Namespace) -> str:
    done = compact(
        tables,
        view,
        target_rows=args.target_rows,
        older_than=timedelta(minutes=args.older_than),
        grace=timedelta(minutes=args.grace),
    )
    rest = f", {done.waiting:,} replaced ones wait for the next run" if done.waiting else ""
    return (
        f"{view.name}: {done.files_before:,} files became {done.files_after:,}{rest}; "
        f"{done.rows_after:,} rows, {done.rows_before - done.rows_after:,} duplicates dropped"
    )


def _parser() -> argparse.ArgumentParser:
    made = parser("compact_log", __doc__.split("\n", 1)[0])
    made.add_argument(
        "--view", action="append", metavar="NAME", help="only this view; may be repeated (default: every live view)"
    )
    made.add_argument("--target-rows", type=positive, default=250_000, metavar="N", help="rows of a folded file (default 250000)")
    minutes = between(0, MOST_DAYS * 24 * 60)
    made.add_argument("--older-than", type=minutes, default=0, metavar="MIN", help="leave files younger than this (default 0)")
    made.add_argument(
        "--grace", type=minutes, default=60, metavar="MIN", help="keep replaced files for readers that listed them (default 60)"
    )
    return made


if __name__ == "__main__":
    raise SystemExit(main())
