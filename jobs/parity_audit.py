"""Rebuild logged requests from the offline tables and compare every value.

By versions nothing may differ; by time the difference is the freshness skew of serving against a point-in-time join.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs._audit_log import Kind, RequestLog, Requests
from jobs._audit_offline import VECTOR_COLUMNS, OfflineItems, OfflineVectors
from jobs._audit_report import Difference, Skew, Tally, write_report
from jobs._audit_time import SEQUENCE_COLUMNS, Behaviours, TimeReplay
from jobs._audit_versions import Replay
from jobs._cli import Exit, parser, positive, run, say, site
from jobs._progress import Progress
from moontide import schemas
from moontide.errors import Misconfigured
from moontide.live import LiveSpaces
from moontide.pit.ids import Ids
from moontide.pit.versions import LOG_COLUMNS, VersionLog
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view, item_features, user_sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _run(args))


def _run(args: argparse.Namespace) -> Exit:
    settings, live = site(args.home)
    log = RequestLog.open(args.log, args.service or ())
    if args.dry_run:
        say(f"request log {log.table.rows:,} rows in {len(log.table.files):,} files; nothing was written")
        return Exit.DONE
    audit = Audit(log, live, OfflineTables(settings.offline_root), args.most)
    if args.by == "time":
        report = audit.by_time()
        for feature, found in report["skew"].items():
            say(f"{feature}: {found['differing']:,} of {found['compared']:,} values differ ({100 * found['share']:.3f} %)")
    else:
        report = audit.by_versions()
        say(f"{report['requests']:,} requests, {report['values_compared']:,} values compared, {report['differences']:,} differ")
        for reason, count in report["by_reason"].items():
            say(f"{reason}: {count:,}")
    write_report(args.report, {"by": args.by, "log": args.log, **report})
    return Exit.REJECTED if report["differences"] else Exit.DONE


class Audit:
    """One log against the offline tables of a site.

    Args:
        log: what was served.
        live: spaces and specs.
        offline: the tables.
        most: differences that are listed.
    """

    def __init__(self, log: RequestLog, live: LiveSpaces, offline: OfflineTables, most: int) -> None:
        self._log, self._live, self._offline = log, live, offline
        self._tally = Tally(most)
        self._items, self._users = log.named()

    def by_versions(self) -> dict[str, Any]:
        """Compare every value; `Tally.report`.

        Raises:
            Misconfigured: the log cannot be read.
            SpaceMismatch: the offline table of a space holds another encoder's vectors.
        """
        catalog = self._catalog(self._items)
        replays: dict[str, Replay] = {}
        for kind, requests, space, spec in self._known():
            if space.id not in replays:
                rows = self._offline.scan(embedding_view(space), VECTOR_COLUMNS)
                vectors = OfflineVectors.build(rows, space, self._items)
                replays[space.id] = Replay(self._items, vectors, catalog, self._sequences())
            replays[space.id].compare(kind, requests, spec, self._tally)
        return self._tally.report()

    def by_time(self) -> dict[str, Any]:
        """Measure the skew; requests that cannot be replayed at all are differences, as by versions."""
        skew = Skew(np.random.default_rng(0))
        replays: dict[tuple[str, str], TimeReplay] = {}
        for kind, requests, space, spec in self._known():
            if (space.id, spec.sequence) not in replays:
                replays[space.id, spec.sequence] = self._time_replay(space, spec)
            replays[space.id, spec.sequence].compare(kind, requests, spec, skew)
        return {**self._tally.report(), "skew": skew.report()}

    def _time_replay(self, space: EmbeddingSpace, spec: SimTierSpec) -> TimeReplay:
        rows = self._offline.scan(user_sequence(spec.sequence), SEQUENCE_COLUMNS)
        behaviours = Behaviours.build(rows, self._users)
        items = Ids.of([self._items.strings(), behaviours.item_ids])
        vectors = VersionLog.build(self._offline.scan(embedding_view(space), LOG_COLUMNS), space, items)
        return TimeReplay(items, vectors, self._catalog(items), behaviours)

    def _catalog(self, items: Ids) -> OfflineItems:
        return OfflineItems.build(self._offline.scan(item_features(), schemas.ITEM_FEATURES.names), items)

    def _sequences(self) -> NDArray[np.int64]:
        """Versions of the offline sequences of every kind, rising."""
        names = sorted({spec.sequence for spec in self._live.simtiers})
        tables = [t for name in names for t in self._offline.scan(user_sequence(name), ["sequence_version"])]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(t["sequence_version"].to_numpy() for t in tables)]))

    def _known(self) -> Any:
        """Requests that can be replayed, by kind; the others are counted as differences."""
        done = [0]
        with Progress("audit", self._log.table.rows, lambda: done[0]):
            for kind, rows in self._log.kinds():
                done[0] += rows.num_rows
                self._tally.saw(kind, rows.num_rows, len(rows["item_ids"].combine_chunks().flatten()))
                known = self._resolved(kind)
                if isinstance(known, str):
                    self._refuse(rows, known)
                    continue
                whole = Requests.whole(rows, kind.fields, known[1].tiers, known[1].length)
                self._refuse(rows.filter(pa.array(~whole)), "malformed")
                if whole.any():
                    yield kind, Requests(rows.filter(pa.array(whole))), *known

    def _resolved(self, kind: Kind) -> tuple[EmbeddingSpace, SimTierSpec] | str:
        """Space and spec of a kind, or why there is none."""
        try:
            space = self._live.space(kind.space)
        except Misconfigured:
            return "unknown_space"
        if space.encoder_digest != kind.encoder_digest:
            return "encoder_differs"
        try:
            return space, self._live.simtier(kind.simtier)
        except Misconfigured:
            return "unknown_spec"

    def _refuse(self, rows: pa.Table, reason: str) -> None:
        for request, user in zip(rows["request_id"].to_pylist(), rows["user_id"].to_pylist(), strict=True):
            self._tally.add(Difference(request, user, None, "request", reason))


def _parser() -> argparse.ArgumentParser:
    made = parser("parity_audit", __doc__.split("\n", 1)[0])
    made.add_argument("--log", required=True, metavar="PATH", help="request log: a Parquet file, a folder of them, or a URI")
    made.add_argument("--service", action="append", metavar="NAME", help="only this service; may be repeated (default: all)")
    made.add_argument(
        "--by", choices=("versions", "time"), default="versions", help="how requests are replayed (default versions)"
    )
    made.add_argument("--report", required=True, type=Path, metavar="FILE", help="JSON file for what was found")
    made.add_argument("--most", type=positive, default=1_000, metavar="N", help="differences that are listed (default 1000)")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
