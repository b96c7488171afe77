"""The items that pairs are made of, from either documented layout: one row per item, in one schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from encoders.data import UNKNOWN_LABELS, Example, read_data_set
from encoders.item import TITLE_MAX_CHARS
from jobs._catalog import Rules, open_catalog, read_catalog
from jobs._pairs_content import enriched
from jobs._pairs_rows import AFTER_CUTOFF, has_table
from jobs._spark import arrow_ddl, numbers
from jobs._tables import InputTable
from moontide.errors import Misconfigured

#: `photos` are paths, the main one first; `pictured`: there is an image, in a path or in the file itself.
#: `product` is one for all its sizes and colours.
ITEMS: Final = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("enriched", pa.string()),
        ("photos", pa.list_(pa.string())),
        ("pictured", pa.bool_()),
        ("category", pa.string()),
        ("product", pa.string()),
        ("version", pa.int64()),
        ("deleted", pa.bool_()),
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
#: Rows that are no fault and make no item.
SUPERSEDED: Final = "superseded_item"
DELETED: Final = "deleted_item"
_BATCH_ROWS: Final = 1_024


class ItemSource(NamedTuple):
    """Where items come from: `table` of the catalog layout, or `examples` of a training folder, in memory.

    `left_out` counts rows of a training folder that make no item; `licence` is its ``dataset.json``.
    """

    table: InputTable | None
    examples: tuple[Example, ...]
    left_out: dict[str, int]
    licence: dict[str, Any] | None


def open_items(uri: str, cutoff: str | None, snapshot_us: int | None) -> ItemSource:
    """``items.csv`` where the folder has one, else ``catalog.parquet``.

    Raises:
        Misconfigured: neither, or one that cannot be used.
    """
    if "://" not in uri and (Path(uri) / "items.csv").is_file():
        found = read_data_set(Path(uri), cutoff=cutoff, licensed=False)
        left_out = {f"item_{reason}": count for reason, count in found.skipped.items()}
        return ItemSource(None, found.examples, left_out, found.source)
    if not has_table(uri, "catalog.parquet"):
        raise Misconfigured(
            f"--data {uri}: expected a folder with items.csv or catalog.parquet, got neither; "
            "see docs/reference/training-data.md and docs/reference/data-layout.md"
        )
    return ItemSource(open_catalog(f"{uri.rstrip('/')}/catalog.parquet", snapshot_us=snapshot_us), (), {}, None)


def item_rows(spark: SparkSession, source: ItemSource, rules: Rules, cutoff_us: int | None) -> DataFrame:
    """Every row of the source as `ITEMS`; the one good row of an item has no `reason`."""
    if source.table is None:
        return spark.createDataFrame(_table(source.examples), arrow_ddl(ITEMS))
    table = source.table
    rows = numbers(spark, len(table.units)).mapInArrow(ReadItems(table, rules, cutoff_us), arrow_ddl(ITEMS))
    key = F.when(F.col("reason").isNull(), F.col("item_id")).otherwise(F.concat_ws(" ", F.lit(""), "source", "row"))
    best = Window.partitionBy(key).orderBy(F.desc("version"), "source", "row")
    place = F.row_number().over(best)
    reason = F.when(F.col("place") > 1, F.lit(SUPERSEDED)).when(F.col("deleted"), F.lit(DELETED))
    return rows.withColumn("place", place).withColumn("reason", F.coalesce("reason", reason)).drop("place")


class ReadItems:
    """`mapInArrow` over unit numbers of a catalog: rows of `ITEMS`, not yet one per item.

    Args:
        table: the catalog.
        rules: what its rows are checked against.
        cutoff_us: rows of that moment and later are left out; None for all.
    """

    def __init__(self, table: InputTable, rules: Rules, cutoff_us: int | None) -> None:
        self._table, self._rules, self._cutoff_us = table, rules, cutoff_us

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the units named in `batches`."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for found in read_catalog(self._table, number, self._rules, batch_rows=_BATCH_ROWS):
                    yield self._items(found)

    def _items(self, found: pa.RecordBatch) -> pa.RecordBatch:
        columns = {name: found[name].to_pylist() for name in ("title", "description", "attributes", "category", "image")}
        texts = zip(columns["title"], columns["attributes"], columns["category"], strict=True)
        reason = found["reason"]
        if self._cutoff_us is not None:
            late = pc.and_(pc.is_null(reason), pc.fill_null(pc.greater_equal(found["event_us"], self._cutoff_us), False))
            reason = pc.if_else(late, AFTER_CUTOFF, reason)
        size = pc.fill_null(pc.binary_length(found["image_bytes"]), 0)
        paths = [path.strip() if path and path.strip() else None for path in columns["image"]]
        out = {
            "item_id": found["item_id"],
            "title": pa.array([_clean(t) for t in columns["title"]], pa.string()),
            "enriched": pa.array([enriched(t, a, c) for t, a, c in texts], pa.string()),
            "photos": pa.array([[p] if p else [] for p in paths], ITEMS.field("photos").type),
            "pictured": pc.or_(pc.greater(size, 0), pa.array([p is not None for p in paths], pa.bool_())),
            "category": pa.array([_clean(c) for c in columns["category"]], pa.string()),
            "product": found["item_id"],
            "version": found["source_version"],
            **{name: found[name] for name in ("deleted", "source", "row", "detail")},
            "reason": reason,
        }
        return pa.RecordBatch.from_arrays([out[f.name] for f in ITEMS], schema=ITEMS)


def _table(examples: tuple[Example, ...]) -> pa.Table:
    return pa.Table.from_pylist([_row(example) for example in examples], schema=ITEMS)


def _row(example: Example) -> dict[str, Any]:
    item = example.item
    category = example.label if example.label not in UNKNOWN_LABELS else None
    category = _clean(category) or _clean(example.values.get("main_category"))
    title = _clean(item.title)
    long = title is not None and len(title) > TITLE_MAX_CHARS
    return {
        "item_id": item.item_id,
        "title": title,
        "enriched": enriched(title, item.attributes, category),
        "photos": list(example.images),
        "pictured": bool(example.images),
        "category": category,
        "product": example.product or item.item_id,
        "version": 0,
        "deleted": False,
        "source": 0,
        "row": example.row,
        "reason": "title_too_long" if long else None,
        "detail": f"expected at most {TITLE_MAX_CHARS} characters" if long else None,
    }


def _clean(text: str | None) -> str | None:
    return (text or "").strip() or None
