"""Pairs that need no behaviour: photos of one product, a title and its picture, a text with attributes and its title."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere


def enriched(title: str | None, attributes: str | None, category: str | None) -> str | None:
    """``title; attribute values; category`` without parts that are empty or said before; None where the title says it all.

    Of a path like ``Men/Tops/Jackets`` the last part is the category.
    """
    if not (title or "").strip():
        return None
    last = (category or "").rstrip("/").rpartition("/")[2]
    parts: dict[str, str] = {}
    for part in [title, *(attributes or "").split(";"), last]:
        text = " ".join((part or "").split())
        if text:
            parts.setdefault(text.casefold(), text)
    return "; ".join(parts.values()) if len(parts) > 1 else None


def content_pairs(items: DataFrame, kinds: frozenset[str]) -> DataFrame:
    """Columns `jobs._pairs_groups.PAIR` of the content kinds among `kinds`, at most one per item and query.

    Args:
        items: good rows of `jobs._pairs_items.ITEMS`.
        kinds: of `moontide.schemas.PAIR_KINDS`; others are passed over.
    """
    none = F.lit(None).cast("string")
    photos = items.select(
        "item_id", "category", F.explode(F.array_distinct("photos")).alias("photo"), F.col("photos")[0].alias("main")
    )
    made = {
        "same_product": _pairs(photos.where("photo <> main"), "same_product", none, F.col("photo")),
        "title_image": _pairs(items.where("pictured and title is not null"), "title_image", F.col("title"), none),
        "enriched_title": _pairs(items.where("enriched is not null"), "enriched_title", F.col("enriched"), none),
    }
    return reduce(DataFrame.unionByName, [pairs.where(F.lit(name in kinds)) for name, pairs in made.items()])


def _pairs(items: DataFrame, kind: str, text: Column, image: Column) -> DataFrame:
    return items.select(
        F.lit(None).cast("string").alias("query_item_id"),
        text.alias("query_text"),
        image.alias("query_image"),
        "item_id",
        F.lit(kind).alias("kind"),
        F.lit(None).cast("string").alias("negative_item_id"),
        F.lit(False).alias("purchased"),
        F.lit(None).cast("long").alias("event_us"),
    )
