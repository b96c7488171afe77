"""How `examples/events.jsonl` was made: python examples/build_events.py [--out examples/events.jsonl].

What a shop's systems might send on 2011-11-01, the day after the catalog and purchases of `examples/data` end: changes to real
items, a new one, deletes, a record that is no event, and the last real purchases of each of a few customers as if made a
day later, with what those customers were shown. It depends on `examples/data` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.events import SCHEMA_VERSION, parse_behaviour, parse_item
from moontide.stores.kv import wall_clock

DATA = Path(__file__).parent / "data"
DAY = datetime(2011, 11, 1, 9, 0, tzinfo=UTC)
TEXT_ITEMS, PHOTO_ITEMS = 12, 8
CUSTOMERS, PURCHASES, SHOWN = 12, 30, 5
CONTENT = ("title", "description", "attributes", "image", "category", "price")
NEW_ITEM = "or:MOON01"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; returns 0."""
    parser = argparse.ArgumentParser(description="Build examples/events.jsonl from examples/data.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "events.jsonl", help="default: examples/events.jsonl")
    args = parser.parse_args(argv)
    lines = [json.dumps(line, ensure_ascii=False) for line in [*item_lines(), *behaviour_lines()]]
    args.out.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    sys.stdout.write(f"{args.out}: {len(lines)} lines, {args.out.stat().st_size / 1e3:.0f} kB\n")
    return 0


def item_lines() -> Iterator[dict[str, Any]]:
    """Changes of items, one a second: each kind of change there is, and a record that is no event."""
    catalog = pq.read_table(DATA / "catalog.parquet").to_pylist()
    texts = [row for row in catalog if row["item_id"].startswith("or:")][2_000 : 2_000 + TEXT_ITEMS]
    photos = [row for row in catalog if row["item_id"].startswith("lu:")][:PHOTO_ITEMS]
    seconds = 0

    def event(op: str, row: dict[str, Any], **changes: Any) -> dict[str, Any]:
        nonlocal seconds
        seconds += 1
        content = {name: value for name in CONTENT if (value := {**row, **changes}.get(name)) is not None}
        return item_event(op, row["item_id"], DAY + timedelta(seconds=seconds), None if op == "delete" else content)

    for row in texts[:4]:
        yield event("update", row, title=f"{row['title']} WITH GIFT BOX")
    for row in [*texts[4:8], *photos[:4]]:
        yield event("update", row, price=round(row["price"] * 0.8, 2))
    for row in [*texts[8:10], *photos[4:6]]:
        yield event("update", row)
    new = {"item_id": NEW_ITEM, "title": "SET OF 3 MOON AND TIDE CANDLES", "category": "Gift ware", "price": 4.95}
    yield event("create", new)
    yield event("update", {**photos[6], "title": f"{photos[6]['title']}, Limited Edition"})
    yield event("delete", texts[10])
    tombstone = [["source_version", str(version(DAY + timedelta(seconds=60)))]]
    yield {"topic": "item-events", "key": texts[11]["item_id"], "value": None, "headers": tombstone}
    yield {"topic": "item-events", "key": photos[7]["item_id"], "value": f'{{"item_id": "{photos[7]["item_id"]}", "op": '}


def item_event(op: str, item_id: str, at: datetime, content: dict[str, Any] | None) -> dict[str, Any]:
    """One item event that the parser takes."""
    made: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "event_id": f"{op}-{item_id}-{version(at)}",
        "op": op,
        "item_id": item_id,
        "source_version": version(at),
        "event_timestamp": stamp(at),
    }
    if content is not None:
        made["content"] = content
    parse_item(item_id.encode(), json.dumps(made).encode(), (), -1, now_us=wall_clock())
    return made


def behaviour_lines() -> Iterator[dict[str, Any]]:
    """The last purchases of the customers who bought most on the last days, and what they were shown before them."""
    table = pq.read_table(DATA / "behaviours.parquet").sort_by([("event_timestamp", "ascending"), ("user_id", "ascending")])
    last = table.slice(max(0, table.num_rows - 20_000))
    counts = sorted(pc.value_counts(last["user_id"]).to_pylist(), key=lambda one: (-one["counts"], one["values"]))
    users = {one["values"] for one in counts[:CUSTOMERS]}
    bought = [row for row in last.to_pylist() if row["user_id"] in users]
    rows = []
    for user in sorted(users):
        mine = [row for row in bought if row["user_id"] == user][-PURCHASES:]
        others = [row["item_id"] for row in bought if row["user_id"] != user]
        for number, row in enumerate(mine):
            at = row["event_timestamp"] + timedelta(days=1)
            rows.append((user, row["item_id"], "purchase", at))
            shown = dict.fromkeys([row["item_id"], *others[number * SHOWN : (number + 1) * SHOWN]]) if number % 10 == 0 else {}
            rows += [(user, item, "impression", at - timedelta(seconds=30)) for item in shown]
    for number, (user, item, action, at) in enumerate(sorted(rows, key=lambda row: (row[3], row[0], row[1]))):
        made = {
            "schema_version": SCHEMA_VERSION,
            "event_id": f"b-{number:05d}",
            "user_id": user,
            "item_id": item,
            "action": action,
            "event_timestamp": stamp(at),
        }
        parse_behaviour(user.encode(), json.dumps(made).encode(), now_us=wall_clock())
        yield made


def version(at: datetime) -> int:
    """Seconds since 1970, as in the catalog."""
    return int(at.timestamp())


def stamp(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    raise SystemExit(main())
