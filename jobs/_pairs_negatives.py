"""Hard negatives: items of the anchor's category that were never bought, seen or found together with it."""

from __future__ import annotations

from functools import reduce
from typing import Final

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from jobs._spark import kept

#: Items of the category that are looked at for one anchor; those that share a group with it drop out.
LOOKS: Final = 16


def with_negatives(pairs: DataFrame, items: DataFrame, groups: list[DataFrame], seed: int) -> DataFrame:
    """`pairs` with `negative_item_id` filled where it was null and the anchor has such items; and `category`, the positive's.

    The anchor is the query item, or the positive where the query is a text or a picture. Its negatives are drawn once, for
    all its pairs; a pair takes one of them by a hash.

    Args:
        pairs: columns `jobs._pairs_groups.PAIR` and others.
        items: good rows of `jobs._pairs_items.ITEMS`.
        groups: (group, item_id) tables of what belongs together; one product and one title are groups as well.
        seed: of the draw.
    """
    pool = _pools(items, groups, seed)
    categories = items.select("item_id", "category")
    anchored = (
        pairs.withColumn("anchor", F.coalesce("query_item_id", "item_id"))
        .join(pool, "anchor", "left")
        .join(categories, "item_id")
    )
    texts = "query_item_id, query_text, query_image, item_id, event_us"
    at = F.expr(f"cast(pmod(xxhash64({seed}L, 'pool', {texts}), greatest(coalesce(size(pool), 1), 1)) as int)")
    drawn = F.when(F.col("pool").isNotNull(), F.try_element_at("pool", at + 1))
    return anchored.withColumn("negative_item_id", F.coalesce("negative_item_id", drawn)).drop("anchor", "pool")


def _pools(items: DataFrame, groups: list[DataFrame], seed: int) -> DataFrame:
    """(anchor, pool): at most `LOOKS` negatives of each item that has any, in the order they were drawn."""
    known = items.where("category is not null").select("item_id", "category")
    place = F.row_number().over(Window.partitionBy("category").orderBy("item_id")) - 1
    listed = known.withColumn("at", place.cast("long"))
    sizes = known.groupBy("category").agg(F.count("*").alias("size"))
    looks = known.join(sizes, "category").withColumn("look", F.explode(F.sequence(F.lit(0), F.lit(LOOKS - 1))))
    looks = looks.withColumn("at", F.expr(f"pmod(xxhash64({seed}L, 'negative', item_id, look), size)"))
    found = looks.join(listed.withColumnRenamed("item_id", "other"), ["category", "at"]).where("other <> item_id")
    mine = kept(_memberships(items, groups))
    theirs = mine.select(F.col("item_id").alias("other"), F.col("groups").alias("others"))
    apart = found.join(mine, "item_id").join(theirs, "other").where(~F.arrays_overlap("groups", "others"))
    first = apart.groupBy(F.col("item_id").alias("anchor"), "other").agg(F.min("look").alias("look"))
    pool = F.transform(F.array_sort(F.collect_list(F.struct("look", "other"))), lambda one: one["other"])
    return first.groupBy("anchor").agg(pool.alias("pool"))


def _memberships(items: DataFrame, groups: list[DataFrame]) -> DataFrame:
    own = [
        items.select(F.xxhash64(F.lit("product"), "product").alias("group"), "item_id"),
        items.where("title is not null").select(F.xxhash64(F.lit("title"), F.lower("title")).alias("group"), "item_id"),
    ]
    return (
        reduce(DataFrame.union, [*own, *(g.select("group", "item_id") for g in groups)])
        .groupBy("item_id")
        .agg(F.collect_set("group").alias("groups"))
    )
