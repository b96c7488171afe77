"""Spark's part of a backfill: the catalog beside where every item stands offline, one row per item, in memory of any size.

Executors read all Parquet themselves through pyarrow, so that a table is read with the same code, types and credentials
everywhere; Spark shuffles, sorts and joins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, cast

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

from jobs._catalog import ROWS, Rules, read_catalog
from jobs._encode import SUPERSEDED
from jobs._load import read_file
from jobs._rejects import RowReason
from jobs._spark import arrow_ddl, numbers
from jobs._tables import InputTable
from moontide import names, schemas
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_files import DataFile
from moontide.views import ViewSpec, embedding_view, item_features

_DAY_US: Final = 86_400_000_000
_KNOWN: Final = (names.ITEM_ID, "source_version", "content_known_at", "content_hash")
#: Columns a join adds, under the names `jobs._encode` reads, with their Spark types.
_HEAD_NAMES: Final = {
    "source_version": ("head_version", "long"),
    "event_timestamp": ("head_us", "long"),
    "encoded_at": ("head_encoded_us", "long"),
    "content_known_at": ("head_known_us", "long"),
    "content_hash": ("head_hash", "string"),
    "deleted": ("head_deleted", "boolean"),
    "codes": ("head_codes", "binary"),
    "scale": ("head_scale", "float"),
}
_FEATURE_NAMES: Final = {
    "source_version": ("feature_version", "long"),
    "event_timestamp": ("feature_us", "long"),
    "created": ("feature_created_us", "long"),
    "deleted": ("feature_deleted", "boolean"),
    "price": ("feature_price", "float"),
    "category": ("feature_category", "string"),
    "has_image": ("feature_has_image", "boolean"),
    "has_text": ("feature_has_text", "boolean"),
}


class ReadCatalog:
    """`mapInArrow` over unit numbers: checked catalog rows."""

    def __init__(self, table: InputTable, rules: Rules, batch_rows: int) -> None:
        self._table, self._rules, self._batch_rows = table, rules, batch_rows

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the units named in `batches`."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from read_catalog(self._table, number, self._rules, batch_rows=self._batch_rows)


class ReadOffline:
    """`mapInArrow` over file numbers: columns of an offline table, times as microseconds."""

    def __init__(self, root: str, files: Sequence[DataFile], columns: Sequence[str], own: ViewSpec | None) -> None:
        self._root, self._files, self._columns, self._own = root, list(files), list(columns), own

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the files named in `batches`."""
        tables = OfflineTables(self._root)
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for found in read_file(tables, self._files[number], self._columns, own=self._own):
                    yield plain_times(found)


def plain_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Timestamps as int64 microseconds: Spark must not convert them between time zones."""
    arrays = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def catalog_frame(spark: SparkSession, table: InputTable, rules: Rules, *, batch_rows: int) -> DataFrame:
    """Checked rows of the catalog; of several good rows for an item only the first of the highest version has no `reason`."""
    rows = numbers(spark, len(table.units)).mapInArrow(ReadCatalog(table, rules, batch_rows), arrow_ddl(ROWS))
    best = Window.partitionBy("key").orderBy(F.desc("source_version"), F.col("source"), F.col("row"))
    place, before = F.row_number().over(best), F.lag("source_version").over(best)
    twice = (F.col("place") > 1) & (F.col("before") == F.col("source_version"))
    reason = (
        F.when(F.col("reason").isNotNull(), F.col("reason"))
        .when(twice, F.lit(RowReason.DUPLICATE_ID.value))
        .when(F.col("place") > 1, F.lit(SUPERSEDED))
    )
    detail = F.when(twice, F.lit("expected one row per item and version, got another before it")).otherwise(F.col("detail"))
    return (
        rows.withColumn("place", place)
        .withColumn("before", before)
        .withColumn("detail", detail)
        .withColumn("reason", reason)
        .drop("place", "before")
    )


def with_heads(spark: SparkSession, rows: DataFrame, tables: OfflineTables, root: str, space: EmbeddingSpace) -> DataFrame:
    """`rows` with the head of each item's embedding, of its features, and every content its version was known with, in any
    space, and since when: spaces read different parts of an item, and so hash it differently.
    """
    for view, renamed in ((embedding_view(space), _HEAD_NAMES), (item_features(), _FEATURE_NAMES)):
        found = _of_view(spark, tables, root, view, [names.ITEM_ID, *renamed])
        rows = _joined(rows, _latest(found), renamed)
    every = tables.folder(embedding_view(space)).rsplit("/", 1)[0]
    known = _offline(spark, tables, root, every, _KNOWN, schemas.ITEM_EMBEDDING)
    if known is None:
        nothing = {"known_us": F.lit(None).cast("array<long>"), "known_hash": F.lit(None).cast("array<string>")}
        return rows.withColumns(nothing)
    entry = F.struct("content_hash", "content_known_at")
    entries = known.groupBy(F.col("item_id").alias("key"), "source_version").agg(F.collect_set(entry).alias("entries"))
    entries = entries.select(
        "key",
        "source_version",
        F.col("entries.content_known_at").alias("known_us"),
        F.col("entries.content_hash").alias("known_hash"),
    )
    return rows.join(entries, ["key", "source_version"], "left")


def by_date(rows: DataFrame, partitions: int, days: int, *, key: str = "key") -> DataFrame:
    """`rows` so that partitions are alike and hold few dates each: a file of an offline table holds one date of one partition."""
    if days <= 1:
        return rows
    # By range, because a hash of few dates fills some partitions twice over and leaves others empty.
    return rows.repartitionByRange(partitions, F.expr(f"event_us div {_DAY_US}"), F.expr(f"hash({key})"))


def latest_offline(spark: SparkSession, settings: Settings, view: ViewSpec, columns: Sequence[str]) -> DataFrame | None:
    """``key`` and ``head`` of each entity of an offline table: the highest row by `columns`, times in microseconds."""
    tables = OfflineTables(settings.offline_root)
    wanted = [view.entities[0], *columns]
    return _latest(_of_view(spark, tables, settings.offline_root, view, wanted))


def _latest(rows: DataFrame | None) -> DataFrame | None:
    """The highest row of each entity; the columns are compared in order, and the first of them are the write order."""
    if rows is None:
        return None
    entity, *columns = rows.columns
    return rows.groupBy(F.col(entity).alias("key")).agg(F.max(F.struct(*columns)).alias("head"))


def _of_view(spark: SparkSession, tables: OfflineTables, root: str, view: ViewSpec, columns: Iterable[str]) -> DataFrame | None:
    """Columns of every row of a view's table, its files checked to be of the view's encoder; None where it has no file."""
    return _offline(spark, tables, root, tables.folder(view), columns, view.table, own=view)


def _offline(
    spark: SparkSession,
    tables: OfflineTables,
    root: str,
    folder: str,
    columns: Iterable[str],
    schema: pa.Schema,
    own: ViewSpec | None = None,
) -> DataFrame | None:
    """Columns of every row of an offline table; None where it has no file."""
    files = tables.tree.files(folder)
    if not files:
        return None
    wanted = list(columns)
    fields = [schema.field(c) for c in wanted]
    plain = pa.schema([pa.field(f.name, pa.int64()) if pa.types.is_timestamp(f.type) else f for f in fields])
    return numbers(spark, len(files)).mapInArrow(ReadOffline(root, files, wanted, own), arrow_ddl(plain))


def _joined(rows: DataFrame, heads: DataFrame | None, renamed: dict[str, tuple[str, str]]) -> DataFrame:
    if heads is None:
        missing: dict[str, Column] = {name: F.lit(None).cast(kind) for name, kind in renamed.values()}
        return rows.withColumns(missing)
    found = rows.join(heads, "key", "left")
    added: dict[str, Any] = {name: F.col(f"head.{column}") for column, (name, _) in renamed.items()}
    return cast(DataFrame, found.withColumns(added).drop("head"))
