"""What belongs together in a log: items of one basket, of one session, and of one search; and what pairs are drawn from it.

Every number is drawn by a hash of the seed and the content, so that rows do not depend on partitions or their order.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from encoders.data import BASKET_SIZES
from jobs._pairs_rows import PURCHASES
from jobs._spark import kept

SESSION_US: Final = 30 * 60 * 1_000_000
#: Columns of a pair before its weight, its `log_q` and its category are known.
PAIR: Final = (
    "query_item_id", "query_text", "query_image", "item_id", "kind", "negative_item_id", "purchased", "event_us",
)  # fmt: skip
#: Expected counts are whole multiples of 2**-24: sums of integers are the same in any order.
UNIT: Final = 1 << 24


class Drawn(NamedTuple):
    """Pairs, and what their popularity is computed from.

    Attributes:
        pairs: columns `PAIR`.
        expected: (kind, item_id, expected): how many pairs of the kind have this positive, on average over seeds, times `UNIT`.
        groups: (group, item_id): what was bought, seen or found together; two items of a group are never each other's negative.
        left_out: (reason, count) of groups that make no pairs.
    """

    pairs: DataFrame
    expected: DataFrame
    groups: DataFrame
    left_out: DataFrame


def sessions(rows: DataFrame, *by: str) -> DataFrame:
    """`rows` with `part`: it rises by one where more than 30 minutes passed since the row before of the same `by`."""
    order = Window.partitionBy(*by).orderBy("event_us", "item_id", "action")
    gap = F.col("event_us") - F.lag("event_us").over(order) > SESSION_US
    return rows.withColumn("fresh", F.coalesce(gap, F.lit(False)).cast("int")).withColumn(
        "part", F.sum("fresh").over(order.rowsBetween(Window.unboundedPreceding, 0))
    )


def basket_groups(sales: DataFrame) -> DataFrame:
    """(group, item_id, event_us, bought): one row per basket and item, at the time it was last put in."""
    return _members(sales, F.xxhash64(F.lit("basket"), "basket_id"), F.lit(True))


def session_groups(behaviours: DataFrame) -> DataFrame:
    """(group, item_id, event_us, bought): one row per session of a user and item."""
    cut = sessions(behaviours, "user_id")
    return _members(cut, F.xxhash64(F.lit("session"), "user_id", "part"), is_purchase())


def is_purchase() -> Column:
    """Whether a row's `action` is a purchase."""
    return F.lower("action").isin(*PURCHASES)


def _members(rows: DataFrame, group: Column, bought: Column) -> DataFrame:
    found = rows.select(group.alias("group"), "item_id", "event_us", bought.alias("bought"))
    return found.groupBy("group", "item_id").agg(F.max("event_us").alias("event_us"), F.max("bought").alias("bought"))


def draw_pairs(members: DataFrame, kind: str, seed: int, most: int) -> Drawn:
    """At most `most` ordered pairs of different items of every group of a plain size, each as likely as the others.

    Args:
        members: columns of `basket_groups`.
        kind: of the pairs.
        seed: of the draw.
        most: pairs of one group.
    """
    together = members.groupBy("group").agg(
        F.array_sort(F.collect_list(F.struct("item_id", "event_us", "bought"))).alias("members")
    )
    together = together.withColumn("n", F.size("members"))
    together = kept(together)
    plain = together.where(F.col("n").between(BASKET_SIZES[0], BASKET_SIZES[-1]))
    plain = plain.withColumn("m", F.least(F.lit(most), F.expr("n * (n - 1)")))
    codes = F.expr(
        f"slice(array_sort(transform(sequence(0, n * (n - 1) - 1), c -> struct(xxhash64({seed}L, group, c) as h, c as c))), 1, m)"
    )
    drawn = plain.withColumn("code", F.explode(codes)).withColumn("a", F.expr("cast(code.c div (n - 1) as int)"))
    drawn = drawn.withColumn("r", F.expr("cast(code.c % (n - 1) as int)"))
    drawn = drawn.withColumn("query", F.expr("members[a]")).withColumn("found", F.expr("members[if(r >= a, r + 1, r)]"))
    nothing = F.lit(None).cast("string")
    pairs = drawn.select(
        F.col("query.item_id").alias("query_item_id"),
        nothing.alias("query_text"),
        nothing.alias("query_image"),
        F.col("found.item_id").alias("item_id"),
        F.lit(kind).alias("kind"),
        nothing.alias("negative_item_id"),
        F.col("found.bought").alias("purchased"),
        F.greatest("query.event_us", "found.event_us").alias("event_us"),
    )
    each = plain.select("group", F.explode("members.item_id").alias("item_id"), share(F.col("m"), F.col("n")).alias("part"))
    size = F.when(F.col("n") < BASKET_SIZES[0], f"{kind}_of_one_item").when(F.col("n") > BASKET_SIZES[-1], f"{kind}_too_large")
    left_out = together.select(size.alias("reason")).where("reason is not null").groupBy("reason").count()
    return Drawn(pairs, expected(each, kind), each.select("group", "item_id"), left_out)


def share(drawn: Column, size: Column) -> Column:
    """``drawn / size`` times `UNIT`, rounded: what one group of `size` positives adds to each one's expected count."""
    return F.round(drawn * F.lit(UNIT) / size).cast("long")


def expected(each: DataFrame, kind: str) -> DataFrame:
    """(kind, item_id, expected) of rows with an `item_id` and a `part`."""
    return each.groupBy("item_id").agg(F.sum("part").alias("expected")).select(F.lit(kind).alias("kind"), "item_id", "expected")


def with_log_q(pairs: DataFrame, counts: DataFrame) -> DataFrame:
    """`pairs` with `log_q` = ln(expected pairs of the kind with this positive / expected pairs of the kind)."""
    total = counts.groupBy("kind").agg(F.sum("expected").alias("total"))
    log_q = F.log(F.col("expected") / F.col("total")).cast("float")
    shares = counts.join(total, "kind").select("kind", "item_id", log_q.alias("log_q"))
    return pairs.join(shares, ["kind", "item_id"])
