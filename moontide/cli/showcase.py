"""The last part of ``moontide demo``: choose users and candidates, read their features every way there is, measure, report.

Runs as a program of its own, in the environment of the demo: ``python -m moontide.cli.showcase pairs|check|report DATA OUT``;
``report`` takes the URL of the feature server too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.cli.console import complain, one_line, say, table
from moontide.cli.demo import APPLIED, SERVICE
from moontide.cli.nearline import EVENTS
from moontide.errors import MoontideError

USERS: Final = 8
BEFORE: Final = "before.json"
_MIN_HISTORY: Final = 60
_MAX_HISTORY: Final = 200


def main(argv: Sequence[str]) -> int:
    """``pairs DATA FILE``, ``check DATA OUT`` or ``report DATA OUT URL``."""
    what, data, out = argv[0], Path(argv[1]), Path(argv[2])
    try:
        if what == "report":
            return report(data, out, argv[3])
        return {"pairs": write_pairs, "check": check}[what](data, out)
    except (MoontideError, OSError) as error:
        complain(f"moontide demo: {one_line(str(error))}")
        return 1


def chosen(data: Path) -> dict[str, list[str]]:
    """User -> candidates: users of the impressions with a history of middling length, and the items they were shown."""
    behaviours = pq.read_table(data / "behaviours.parquet", columns=["user_id"])
    counted = behaviours.group_by("user_id").aggregate([("user_id", "count")])
    size = counted["user_id_count"]
    enough = pc.and_(pc.greater_equal(size, _MIN_HISTORY), pc.less_equal(size, _MAX_HISTORY))
    users = set(counted.filter(enough)["user_id"].to_pylist())
    found: dict[str, list[str]] = {}
    shown = pq.read_table(data / "impressions.parquet", columns=["user_id", "item_id"])
    for user, item in zip(shown["user_id"].to_pylist(), shown["item_id"].to_pylist(), strict=True):
        if user in users and (user in found or len(found) < USERS) and item not in found.get(user, []):
            found.setdefault(user, []).append(item)
    return found


def write_pairs(data: Path, path: Path) -> int:
    """The pairs whose tiers are computed ahead."""
    pairs = chosen(data)
    rows = [(user, item) for user, items in pairs.items() for item in items]
    pq.write_table(pa.table({"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows]}), path)
    say(f"{len(rows)} pairs of {len(pairs)} users in {path.name}")
    return 0


def check(data: Path, out: Path) -> int:
    """Read, compare, measure, before any event is sent; keeps it in ``before.json``. 1 where a comparison failed."""
    from moontide.cli.effects import Subjects, before
    from moontide.cli.gather import Catalog, Site
    from moontide.cli.measure import compare, figures

    pairs = chosen(data)
    catalog = Catalog.read(data)
    with Site.open(Path("feature_repo"), SERVICE) as site:
        site.index.point_alias(site.service.space)
        checks = compare(site, pairs)
        headline, rows = figures(site, catalog, out)
        noted = before(site, Subjects.read(Path(EVENTS), catalog))
    kept = {"checks": [(c.name, c.outcome) for c in checks], "headline": headline, "rows": rows, "events": noted}
    (out / BEFORE).write_text(json.dumps(kept) + "\n", encoding="utf-8")
    for each in checks:
        say(f"{each.name}: {each.outcome}")
    return 0 if all(each.passed for each in checks) else 1


def report(data: Path, out: Path, url: str) -> int:
    """Compare with what was noted before the events, ask the server at `url`; print the table, write ``report.html``.

    1 where an effect is missing, or the server gives other values.
    """
    from moontide.cli import effects, over_http
    from moontide.cli.gather import Catalog, Site, candidates, history, identity, similar
    from moontide.cli.report import Report, render

    noted = json.loads((out / BEFORE).read_text(encoding="utf-8"))
    figures = json.loads((out / APPLIED).read_text(encoding="utf-8"))
    pairs = chosen(data)
    user = next(iter(pairs))
    catalog = Catalog.read(data)
    with Site.open(Path("feature_repo"), SERVICE) as site:
        changed = effects.after(site, catalog, effects.Subjects.read(Path(EVENTS), catalog), noted["events"], figures)
        same, over, large = over_http.ask(site, catalog, pairs, url)
        rows = [*map(tuple, noted["rows"]), *effects.rows(changed), *over]
        done = [*changed.checks, same]
        checks = [*map(tuple, noted["checks"]), *((c.name, c.outcome) for c in done)]
        page = Report(
            headline=[*map(tuple, noted["headline"]), *effects.headline(changed), *large],
            rows=rows,
            similar=similar(site, catalog),
            user_id=user,
            history=history(site, catalog, user),
            candidates=candidates(site, catalog, user),
            identity=identity(site),
            checks=checks,
            events=effects.shown(catalog, changed),
        )
    (out / "report.html").write_text(render(page), encoding="utf-8")
    say()
    for line in table([*rows, *((name, outcome, "") for name, outcome in checks)]):
        say("  " + line)
    return 0 if all(c.passed for c in done) else 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # DuckDB's binding lists its own leaked objects, a hundred lines of them, when an interpreter ends the usual way.
    os._exit(code)
