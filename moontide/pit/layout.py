"""A training set on disk: file names, Arrow schemas, and how a part is written; in prose: `docs/reference/training-set.md`.

``card.json``, ``items.parquet``, ``vectors.parquet``, ``requests/part-*.parquet`` and ``impressions/part-*.parquet`` in one
folder. Parts are in order by name; a part is whole or absent, and a folder without a card is no training set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from moontide import schemas
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

FORMAT_VERSION: Final = 1
CARD: Final = "card.json"
ITEMS: Final = "items.parquet"
VECTORS: Final = "vectors.parquet"
REQUESTS: Final = "requests"
IMPRESSIONS: Final = "impressions"
#: Rows of a part, at most; a part is closed at the first batch that reaches it.
PART_ROWS: Final = 1 << 20
_KEY: Final = b"moontide.training_set"
_SPACE: Final = b"moontide.space"

#: Every id of an impression or a history, in id order; `item` counts from 0.
ITEMS_SCHEMA: Final = pa.schema([pa.field("item", pa.int32(), nullable=False), pa.field("item_id", pa.string(), nullable=False)])
#: The vectors that an impression or a history points to; `vector` rises.
VECTORS_SCHEMA: Final = pa.schema(
    [
        pa.field("vector", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("source_version", pa.int64(), nullable=False),
        pa.field("event_timestamp", schemas.TIMESTAMP, nullable=False),
        pa.field("codes", pa.binary(), nullable=False),
        pa.field("scale", pa.float32(), nullable=False),
        pa.field("inv_norm", pa.float32(), nullable=False),
    ]
)
#: `request` is the `label_row` of its first impression; `known` counts every behaviour before it, the lists hold the last L.
REQUESTS_SCHEMA: Final = pa.schema(
    [
        pa.field("request", pa.int64(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", schemas.TIMESTAMP, nullable=False),
        pa.field("known", pa.int64(), nullable=False),
        pa.field("history_items", pa.list_(pa.int32()), nullable=False),
        pa.field("history_vectors", pa.list_(pa.int32()), nullable=False),
        pa.field("history_times", pa.list_(pa.int64()), nullable=False),
    ]
)
#: Columns that every impression has; then come further labels, scalars, and `counts`.
IMPRESSION_COLUMNS: Final = (
    pa.field("label_row", pa.int64(), nullable=False),
    pa.field("request", pa.int64(), nullable=False),
    pa.field("item", pa.int32(), nullable=False),
    pa.field("vector", pa.int32(), nullable=False),
    pa.field("label", pa.float32(), nullable=False),
    pa.field("missing", pa.int32(), nullable=False),
)
COUNTS: Final = "counts"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the impressions of one training set have beside `IMPRESSION_COLUMNS`.

    Args:
        tiers: N; 0: no column `counts`.
        labels: further label columns, float32, null where the input had none.
        scalars: scalar columns, float32.

    Raises:
        Misconfigured: a name is used twice.
    """

    tiers: int
    labels: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        every = [f.name for f in IMPRESSION_COLUMNS] + [COUNTS, *self.labels, *self.scalars]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise Misconfigured(f"columns of a training set: expected each name once, got {twice} again; rename the labels")

    def schema(self) -> pa.Schema:
        """Arrow schema of the impressions."""
        wide = [pa.field(COUNTS, pa.list_(pa.int32(), self.tiers), nullable=False)] if self.tiers else []
        more = [pa.field(name, pa.float32()) for name in self.labels]
        more += [pa.field(name, pa.float32(), nullable=False) for name in self.scalars]
        said = {"format_version": FORMAT_VERSION, "tiers": self.tiers, "labels": self.labels, "scalars": self.scalars}
        return pa.schema([*IMPRESSION_COLUMNS, *more, *wide], {_KEY: json.dumps(said).encode()})

    @classmethod
    def of(cls, schema: pa.Schema, *, where: str) -> Columns:
        """The columns a file was written with.

        Raises:
            Misconfigured: no impressions of a training set, or those of another format version.
        """
        said = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
        if said.get("format_version") != FORMAT_VERSION:
            raise Misconfigured(
                f"{where}: expected a training set of format {FORMAT_VERSION}, got {said.get('format_version')}; "
                "make it anew with python -m jobs.training_set"
            )
        return cls(int(said["tiers"]), tuple(said["labels"]), tuple(said["scalars"]))


class PartWriter:
    """Writes ``<folder>/<prefix>-<number>.parquet``, a part at a time: each is visible when it is whole. A context manager.

    Args:
        folder: made if absent.
        schema: of every table.
        prefix: parts are read in the order of their names.
        rows: of a part; it is closed at the first table that reaches it.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, prefix: str = "part", rows: int = PART_ROWS) -> None:
        self._folder, self._schema, self._prefix, self._limit = folder, schema, prefix, rows
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._parts = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.close()
            self._staged.unlink(missing_ok=True)

    def write(self, table: pa.Table | pa.RecordBatch) -> None:
        """Append rows; none is fine."""
        if not table.num_rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._staged, self._schema, compression="zstd")
        found = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        self._writer.write_table(found.cast(self._schema))
        self._rows += table.num_rows
        if self._rows >= self._limit:
            self._finish()

    def close(self) -> None:
        """Finish the last part. A folder to which nothing was written gets one part without rows, which carries the schema."""
        if self._writer is None and not self._parts:
            self._writer = pq.ParquetWriter(self._staged, self._schema, compression="zstd")
        if self._writer is not None:
            self._finish()

    @property
    def _staged(self) -> Path:
        return self._folder / f".{self._prefix}-{self._parts:05d}.parquet.part"

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._staged.replace(self._folder / f"{self._prefix}-{self._parts:05d}.parquet")
        self._writer, self._rows, self._parts = None, 0, self._parts + 1


def write_whole(path: Path, table: pa.Table) -> None:
    """One Parquet file, whole or absent."""
    staged = path.with_name(f".{path.name}.part")
    pq.write_table(table, staged, compression="zstd")
    staged.replace(path)


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write ``card.json``, last of all: it is what makes the folder a training set."""
    staged = folder / f".{CARD}.part"
    with staged.open("w", encoding="utf-8") as file:
        json.dump({"format_version": FORMAT_VERSION, **card}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    staged.replace(folder / CARD)


def read_card(folder: Path) -> dict[str, Any]:
    """The data card.

    Raises:
        Misconfigured: no training set there, or one of another format version.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(f"{folder}: expected a training set, got no {CARD}; run python -m jobs.training_set") from None
    except json.JSONDecodeError as error:
        raise Misconfigured(f"{folder / CARD}: expected JSON, got: {error}; make the training set anew") from error
    if card.get("format_version") != FORMAT_VERSION:
        raise Misconfigured(
            f"{folder}: expected a training set of format {FORMAT_VERSION}, got {card.get('format_version')}; make it anew"
        )
    return card


def part_files(folder: Path) -> list[Path]:
    """The parts of a folder in order.

    Raises:
        Misconfigured: none.
    """
    found = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith((".", "_")))
    if not found:
        raise Misconfigured(f"{folder}: expected Parquet parts, got none; make the training set anew")
    return found


def vectors_schema(space: EmbeddingSpace | None) -> pa.Schema:
    """`VECTORS_SCHEMA` with the space's whole identity in its metadata; None: a set without vectors."""
    return VECTORS_SCHEMA if space is None else VECTORS_SCHEMA.with_metadata({_SPACE: json.dumps(space_record(space)).encode()})


def space_record(space: EmbeddingSpace) -> dict[str, Any]:
    """A space as plain values, for the card and the vectors' metadata."""
    return {
        "id": space.id, "name": space.name, "version": space.version, "dim": space.dim,
        "encoder_digest": space.encoder_digest, "prefix_of": space.prefix_of,
    }  # fmt: skip


def space_from(record: Mapping[str, Any]) -> EmbeddingSpace:
    """Inverse of `space_record`."""
    return EmbeddingSpace(
        record["name"], record["version"], record["dim"], record["encoder_digest"], prefix_of=record["prefix_of"]
    )


def space_of(schema: pa.Schema) -> EmbeddingSpace | None:
    """Inverse of `vectors_schema`."""
    raw = (schema.metadata or {}).get(_SPACE)
    return None if raw is None else space_from(json.loads(raw))
