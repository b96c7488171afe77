"""The data card of training pairs: what was made of how much, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, Final, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from jobs._pairs_rows import PURCHASES

#: Shares of the items with most pairs, for which the card says what share of the pairs they have.
HEADS: Final = (0.01, 0.1)


class Run(NamedTuple):
    """What a run made.

    Attributes:
        pairs: columns of `jobs._pairs_write.ROWS`.
        rejects: (place, source, row, item_id, reason, detail).
        left_out: (reason, count) of rows and groups that are no fault and make no pair; reasons may repeat.
        good: good rows by table name, and ``items``.
        facts: entries of the card that were known before.
    """

    pairs: DataFrame
    rejects: DataFrame
    left_out: DataFrame
    good: dict[str, DataFrame]
    facts: dict[str, Any]


def data_card(made: Run, files: dict[str, int]) -> dict[str, Any]:
    """What stands in ``pairs.json``: it depends on the data and the flags, not on the clock or the partitions."""
    facts = dict(made.facts)
    left_out = Counter(facts.pop("items_left_out"))
    for row in made.left_out.collect():
        left_out[row["reason"]] += row["count"]
    first, last = made.pairs.agg(F.min("event_us"), F.max("event_us")).first() or (None, None)
    rejects = {row["reason"]: row["count"] for row in made.rejects.groupBy("reason").count().collect()}
    covered = made.pairs.select(F.explode(F.array("item_id", "query_item_id")).alias("id")).where("id is not null").distinct()
    asked = made.pairs.where("kind in ('search', 'click')").select("query_text", "query_image").distinct()
    return facts | {
        "format": 1,
        "pairs": sum(files.values()),
        "kinds": _kinds(made.pairs),
        "items": {"known": made.good["items"].count(), "covered": covered.count()},
        "users": _users(made.good),
        "queries": asked.count(),
        "time_range": [_iso(first), _iso(last)],
        "purchase_actions": list(PURCHASES),
        "rejects": rejects,
        "left_out": {reason: count for reason, count in left_out.items() if count},
        "files": files,
    }


def head_share(histogram: Iterable[tuple[int, int]], head: float) -> float:
    """Share of the pairs that the `head` of the items with most pairs have; at least one item is the head.

    Args:
        histogram: (pairs of an item, how many items have that many).
        head: share of the items, 0 to 1.
    """
    rows = sorted(histogram, reverse=True)
    left = max(1, round(head * sum(items for _, items in rows)))
    total = sum(pairs * items for pairs, items in rows)
    found = 0
    for pairs, items in rows:
        taken = min(left, items)
        found, left = found + pairs * taken, left - taken
    return round(found / total, 4) if total else 0.0


def _kinds(pairs: DataFrame) -> dict[str, Any]:
    per_item = pairs.groupBy("kind", "item_id").agg(
        F.count("*").alias("pairs"),
        F.sum(F.col("purchased").cast("long")).alias("bought"),
        F.count("negative_item_id").alias("negatives"),
    )
    rows = per_item.groupBy("kind", "pairs").agg(
        F.count("*").alias("items"), F.sum("bought").alias("bought"), F.sum("negatives").alias("negatives")
    ).collect()  # fmt: skip
    out = {}
    for kind in sorted({row["kind"] for row in rows}):
        mine = [row for row in rows if row["kind"] == kind]
        histogram = [(row["pairs"], row["items"]) for row in mine]
        out[kind] = {
            "pairs": sum(pairs * items for pairs, items in histogram),
            "items": sum(items for _, items in histogram),
            "purchased": sum(row["bought"] for row in mine),
            "with_negative": sum(row["negatives"] for row in mine),
            "head_share": {f"{head:.0%}": head_share(histogram, head) for head in HEADS},
            "most_of_one_item": max(pairs for pairs, _ in histogram),
        }
    return out


def _users(good: dict[str, DataFrame]) -> int:
    found = [good[name].select("user_id") for name in ("behaviours", "searches") if name in good]
    return reduce(DataFrame.union, found).distinct().count() if found else 0


def _iso(micros: int | None) -> str | None:
    # By addition, because fromtimestamp rounds through a float.
    return None if micros is None else (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat()
