"""Request log + behaviours -> labelled impressions, as `jobs.training_set` takes them.

A served item is 1 where its user did one of the actions on it soon after, else 0; what is too young to tell is left out.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs._cli import MOST_DAYS, Exit, add_rejects_flag, moment, now_us, parser, run, say, settings_of
from jobs._impressions import Credit, read_behaviours
from jobs._progress import Progress
from jobs._rejects import RejectFile
from jobs._served_log import LABELLED, LogReader, Shown, open_log
from jobs._tables import open_table
from jobs._training_inputs import require_zone
from moontide import schemas
from moontide.errors import Misconfigured

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ROW_GROUP: Final = 1 << 17


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, now = settings_of(args.home), now_us()
    log = LogReader(open_log(args.log), tuple(args.service or ()), now)
    acts = open_table(args.behaviours, schemas.BEHAVIOURS, tuple(schemas.BEHAVIOURS.names), what="behaviours")
    require_zone(acts, "behaviours", assume_utc=args.assume_utc)
    if args.out.is_dir():
        raise Misconfigured(f"--out {args.out}: expected a Parquet file to write, got a folder; name a file in it")
    rejects = None
    if not args.dry_run:
        rejects = RejectFile(args.rejects or settings.home / "rejects" / "impressions.parquet", at_us=now)
    users, items, time, turned_away = read_behaviours(acts, args.actions, now, rejects)
    credit = Credit(users, items, time, args.within)
    with Progress("attribute", log.table.rows, lambda: log.counts["requests"]):
        for shown in log.read(rejects):
            credit.see(shown)
    turned_away += log.counts["rejected"]
    target = None if args.dry_run else args.out
    with Progress("write", log.table.rows, lambda: log.counts["requests"]), Writer(target) as out:
        for shown in log.read():
            out.add(shown, credit.labels(shown), args.until - args.within)
    what = "would be written" if args.dry_run else str(args.out)
    say(f"impressions: {out.rows:,} from {log.counts['requests']:,} requests, {out.positives:,} labelled 1: {what}")
    say(f"left out: {out.young:,} whose window ends after --until, {log.counts['repeated']:,} repeated within their request")
    say(f"left out: {log.counts['again']:,} requests repeated later: nobody saw what they were given")
    say(f"behaviours: {credit.credited:,} of {len(credit):,} follow a served item, {turned_away:,} input rows rejected")
    if rejects is not None:
        rejects.close()
    return Exit.REJECTED if turned_away else Exit.DONE


class Writer:
    """One Parquet file of `LABELLED`, whole or not at all; no request is split over row groups. A context manager.

    Args:
        path: the file; replaced at the end. None: rows are counted alone.

    Attributes:
        rows, positives, young: impressions written, those with label 1, and those left out as too young.
    """

    def __init__(self, path: Path | None) -> None:
        self.rows = self.positives = self.young = 0
        self._path = path
        self._waiting: list[pa.Table] = []
        self._size = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Writer:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, LABELLED, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None or self._path is None:
            return
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f".{self._path.name}.part")

    def add(self, shown: Shown, labels: np.ndarray[tuple[int], np.dtype[np.float32]], last_us: int) -> None:
        """Write the impressions that were served at `last_us` or before."""
        old = shown.served_at <= last_us
        at = LABELLED.get_field_index("label")
        table = shown.table.set_column(at, LABELLED.field(at), pa.array(labels)).filter(pa.array(old))
        self.rows += table.num_rows
        self.positives += int(labels[old].sum())
        self.young += int((~old).sum())
        if self._writer is not None and table.num_rows:
            self._waiting.append(table)
            self._size += table.num_rows
            if self._size >= _ROW_GROUP:
                self._flush()

    def _flush(self) -> None:
        if self._waiting and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=self._size)
            self._waiting, self._size = [], 0


def span(text: str) -> int:
    """An argparse type: ``90s``, ``30m``, ``24h`` or ``7d`` in microseconds, above 0 and at most a hundred years."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a whole number and s, m, h or d, e.g. 24h, got {text!r}")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > MOST_DAYS * _UNITS["d"]:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_DAYS}d, got {text}")
    return seconds * 1_000_000


def _parser() -> argparse.ArgumentParser:
    made = parser("impressions", __doc__.split("\n", 1)[0])
    made.add_argument("--log", required=True, metavar="PATH", help="request log: a Parquet file, a folder of them, or a URI")
    made.add_argument("--behaviours", required=True, metavar="PATH", help="Parquet of behaviours, complete up to --until")
    made.add_argument("--actions", required=True, nargs="+", metavar="ACTION", help="what makes a label 1, e.g. click purchase")
    made.add_argument(
        "--within", type=span, default="24h", metavar="SPAN", help="after serving, e.g. 90s, 30m, 24h (default), 7d"
    )
    made.add_argument("--until", required=True, type=moment, metavar="TIME",
                      help="up to when behaviours are complete: later windows are left out; ISO 8601 with a zone")  # fmt: skip
    made.add_argument("--service", action="append", metavar="NAME", help="only its requests; may be repeated (default: all)")
    made.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="Parquet file for training_set --impressions; replaced"
    )
    made.add_argument("--assume-utc", action="store_true", help="times of behaviours without a zone are UTC")
    add_rejects_flag(made)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
