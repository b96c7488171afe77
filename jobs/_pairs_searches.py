"""Searches and what followed them: query -> item bought, query -> item clicked, and what was clicked but not bought."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from jobs._pairs_groups import PAIR, SESSION_US, Drawn, expected, is_purchase, sessions, share
from jobs._pairs_rows import PairReason
from jobs._spark import kept

_SEARCH: Final = ("user_id", "session_id", "query_text", "query_image")
_PLACE: Final = ("place", "source", "row")
#: One row per query, item and what was done with it.
OUTCOME: Final = (*_SEARCH, "item_id", "action", "event_us", *_PLACE)


def outcomes(searches: DataFrame, behaviours: DataFrame | None) -> DataFrame:
    """Columns `OUTCOME` of what followed each search.

    A search names its item itself; one that names none is followed by the behaviours of its user in the 30 minutes after
    it, up to the next such search.
    """
    named = searches.where("item_id is not null").select(*OUTCOME)
    if behaviours is None:
        return named
    asked = searches.where("item_id is null").select(*OUTCOME)
    done = behaviours.withColumns({c: F.lit(None).cast("string") for c in ("session_id", "query_text", "query_image")}).select(
        *OUTCOME
    )
    query = F.when(F.col("item_id").isNull(), F.struct("event_us", *_SEARCH[1:]))
    # An action of the moment of a search follows it; among searches of one moment the text decides, never a partition.
    order = Window.partitionBy("user_id").orderBy("event_us", F.col("item_id").isNotNull(), *_SEARCH[1:], "item_id", "action")
    last = F.last(query, ignorenulls=True).over(order.rowsBetween(Window.unboundedPreceding, 0))
    both = asked.unionByName(done).withColumn("last", last)
    found = both.where(F.col("item_id").isNotNull() & (F.col("event_us") - F.col("last.event_us") <= SESSION_US))
    found = found.select("user_id", *(F.col(f"last.{c}").alias(c) for c in _SEARCH[1:]), "item_id", "action", "event_us", *_PLACE)
    return named.unionByName(found)


def own_photos(found: DataFrame, items: DataFrame) -> DataFrame:
    """(place, source, row, item_id, reason) of outcomes whose searched picture is one of the item's own."""
    same = _with_photos(found, items).where("query_image is not null and array_contains(photos, query_image)")
    return same.select(*_PLACE, "item_id", F.lit(PairReason.SELF_PAIR.value).alias("reason"))


def search_pairs(found: DataFrame, items: DataFrame, seed: int, most: int) -> list[Drawn]:
    """Pairs of the kinds ``search`` and ``click``, at most `most` of one search and form of its query.

    A search with both a text and a picture makes pairs of each. The negative of a pair is an item that was clicked but
    not bought in the same search, drawn by the seed, or null.
    """
    found = _with_photos(found, items)
    found = found.withColumn("query_image", F.when(~F.array_contains("photos", F.col("query_image")), F.col("query_image")))
    cut = sessions(found.drop("photos"), *_SEARCH)
    forms = F.explode(F.array(F.struct("query_text", _null("query_image")), F.struct(_null("query_text"), "query_image")))
    each = cut.withColumn("search", F.xxhash64(*_SEARCH, "part")).withColumn("form", forms)
    each = each.select("user_id", "search", "form.*", "item_id", "event_us", is_purchase().alias("bought"))
    each = each.where("query_text is not null or query_image is not null")
    by = ["search", "query_text", "query_image"]
    # The greatest is the last purchase, or the last click where there was none.
    once = each.groupBy(*by, "item_id").agg(F.max(F.struct("bought", "event_us")).alias("end")).select(*by, "item_id", "end.*")
    whole = Window.partitionBy(*by)
    clicked = F.array_sort(F.collect_list(F.when(~F.col("bought"), F.col("item_id"))).over(whole))
    once = once.withColumn("clicked", clicked).withColumn("sold", F.max("bought").over(whole))
    once = kept(once)
    groups = once.select(F.xxhash64(F.lit("query"), "query_text", "query_image").alias("group"), "item_id")
    return [_draw(once.where("bought"), "search", seed, most, groups), _draw(once.where("not sold"), "click", seed, most, groups)]


def _draw(rows: DataFrame, kind: str, seed: int, most: int, groups: DataFrame) -> Drawn:
    by = ["search", "query_text", "query_image"]
    mix = F.xxhash64(F.lit(seed), *by, "item_id")
    rows = rows.withColumn("place", F.row_number().over(Window.partitionBy(*by).orderBy(mix, "item_id")))
    rows = rows.withColumn("n", F.count("*").over(Window.partitionBy(*by)))
    each = rows.select("item_id", share(F.least(F.lit(most), F.col("n")), F.col("n")).alias("part"))
    at = F.expr(f"cast(pmod(xxhash64({seed}L, 'clicked', search, item_id), greatest(size(clicked), 1)) as int)")
    negative = F.try_element_at("clicked", at + 1) if kind == "search" else F.lit(None).cast("string")
    pairs = rows.where(F.col("place") <= most).select(
        F.lit(None).cast("string").alias("query_item_id"),
        "query_text",
        "query_image",
        "item_id",
        F.lit(kind).alias("kind"),
        negative.alias("negative_item_id"),
        F.col("bought").alias("purchased"),
        "event_us",
    )
    nothing = groups.sparkSession.createDataFrame([], "reason string, count long")
    return Drawn(pairs.select(*PAIR), expected(each, kind), groups.distinct(), nothing)


def _null(name: str) -> Column:
    return F.lit(None).cast("string").alias(name)


def _with_photos(found: DataFrame, items: DataFrame) -> DataFrame:
    return found.join(items.select("item_id", "photos"), "item_id")
