"""Blocks of a published data set into a training-set folder, with memory that grows with distinct items and not with rows.

Blocks are written to a file beside the result while the items are collected; then ids become rows, vectors are gathered, tiers
are counted, and the parts are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moontide import schemas
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit import layout
from moontide.simtier import SimTierSpec, tier_counts_at
from moontide.spaces import EmbeddingSpace
from ranking.public.blocks import PARTS, Block, Ints
from ranking.public.spool import Items, Say, spool, unspool

_CODES: Final = ".codes.int8"


@dataclass(frozen=True, slots=True)
class Source:
    """A published data set.

    Attributes:
        name: for the card.
        blocks: yields its blocks, once.
        vectors: yields ((B,) int64 item ids, `Embeddings` of B rows), each item once; a row that is not present is no vector.
        space: of the vectors.
        spec: of the tiers; its length is L.
        scalars: names of the blocks' scalars.
        said: what else the card says.
    """

    name: str
    blocks: Callable[[], Iterable[Block]]
    vectors: Callable[[], Iterable[tuple[Ints, Embeddings]]]
    space: EmbeddingSpace
    spec: SimTierSpec
    scalars: tuple[str, ...]
    said: dict[str, Any] = field(default_factory=dict)


def convert(source: Source, out: Path, *, say: Say) -> dict[str, Any]:
    """Write the training set; returns its card.

    Args:
        source: read once.
        out: a new or empty folder.
        say: progress, a line at a time.

    Raises:
        Misconfigured: `out` holds something, the source has no row, or its vectors name an item twice.
    """
    if out.exists() and any(out.iterdir()):
        raise Misconfigured(f"{out}: expected a new or empty folder, got one with content; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    blocks = out / ".blocks.arrow"
    try:
        known = spool(source.blocks(), source.scalars, blocks, say)
        if not len(known):
            raise Misconfigured(f"{source.name}: expected rows, got none; take a larger share of users")
        items = Items.of(known)
        layout.write_whole(out / layout.ITEMS, items.table())
        table, vector = _gather(source, items, out)
        say(f"{len(known)} items, {len(table)} with a vector")
        totals = _write(source, blocks, out, items, (table, vector))
    finally:
        blocks.unlink(missing_ok=True)
        (out / _CODES).unlink(missing_ok=True)
    card = _card(source, totals, items, table)
    layout.write_card(out, card)
    return card


def _gather(source: Source, items: Items, out: Path) -> tuple[Embeddings, Ints]:
    """Vectors of the items in the order they come, also written to the folder, and the (V,) row of each item's (-1: none)."""
    dim, place = source.space.dim, np.full(len(items.number), -1, np.int64)
    scales, norms, count = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)], 0
    schema, staged = layout.vectors_schema(source.space), out / f".{layout.VECTORS}.part"
    # Codes lie in a file: 128 bytes an item would be gigabytes for a whole catalog.
    with (out / _CODES).open("wb") as codes, pq.ParquetWriter(staged, schema, compression="zstd") as writer:
        for numbers, vectors in source.vectors():
            wanted = items.has(numbers) & vectors.present
            mine, found = numbers[wanted], vectors.take(wanted)
            at = items.rows(mine)
            if (place[at] >= 0).any() or len(np.unique(at)) != len(at):
                raise Misconfigured(f"{source.name}: expected one vector an item, got several; keep one row an item")
            place[at] = np.arange(count, count + len(at))
            writer.write_table(_vector_rows(mine, found, count, schema))
            codes.write(found.codes.tobytes())
            scales.append(found.scale)
            norms.append(found.inv_norm)
            count += len(at)
    staged.replace(out / layout.VECTORS)
    held = np.memmap(out / _CODES, np.int8, "r", shape=(count, dim)) if count else np.zeros((0, dim), np.int8)
    norm = np.concatenate(norms)
    return Embeddings(source.space, held, np.concatenate(scales), norm, norm > 0), place


def _vector_rows(numbers: Ints, vectors: Embeddings, first: int, schema: pa.Schema) -> pa.Table:
    width, count = vectors.space.dim, len(numbers)
    raw = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(vectors.codes.tobytes())])
    zeros = np.zeros(count, np.int64)
    columns = [
        pa.array(np.arange(first, first + count, dtype=np.int32)), pa.array(numbers).cast(pa.string()), pa.array(zeros + 1),
        pa.array(zeros).cast(schemas.TIMESTAMP), raw.cast(pa.binary()), pa.array(vectors.scale), pa.array(vectors.inv_norm),
    ]  # fmt: skip
    return pa.table(columns, schema=schema)


@dataclass(slots=True)
class _Totals:
    """What the card counts."""

    rows: int = 0
    positives: int = 0
    requests: int = 0
    impressions_with_vector: int = 0
    behaviours: int = 0
    behaviours_with_vector: int = 0
    cold_requests: int = 0
    parts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))


def _write(source: Source, path: Path, out: Path, items: Items, vectors: tuple[Embeddings, Ints]) -> _Totals:
    table, place = vectors
    totals = _Totals()
    columns = layout.Columns(source.spec.tiers, scalars=(*source.scalars, "history_length"))
    with (
        layout.PartWriter(out / layout.REQUESTS, layout.REQUESTS_SCHEMA) as requests,
        layout.PartWriter(out / layout.IMPRESSIONS, columns.schema()) as impressions,
    ):
        for block in unspool(path, source.scalars):
            item, history = items.rows(block.item), items.rows(block.history)
            vector, history_vector = place[item], place[history]
            starts = np.searchsorted(block.request, np.arange(len(block.user) + 1))
            found = tier_counts_at(
                table, vector, starts, history_vector, block.offsets, source.spec, candidate_keys=item, history_keys=history
            )
            number = totals.rows + starts[:-1]
            requests.write(_request_rows(block, number, history, history_vector))
            length = np.log1p(block.known.astype(np.float64)).astype(np.float32)[block.request]
            values = {
                "label_row": totals.rows + np.arange(len(item)), "request": number[block.request], "item": item.astype(np.int32),
                "vector": vector.astype(np.int32), "label": block.label, "missing": found.missing,
                **block.scalars, "history_length": length,
                layout.COUNTS: pa.FixedSizeListArray.from_arrays(pa.array(found.counts.ravel()), source.spec.tiers),
            }  # fmt: skip
            schema = columns.schema()
            impressions.write(pa.table([pa.array(values[name]) for name in schema.names], schema=schema))
            _count(totals, block, vector, history_vector)
    return totals


def _request_rows(block: Block, number: Ints, history: Ints, history_vector: Ints) -> pa.Table:
    offsets = pa.array(block.offsets.astype(np.int32))
    # When a behaviour was is not published; it was before everything.
    lists = [history.astype(np.int32), history_vector.astype(np.int32), np.full(len(history), -1, np.int64)]
    columns = [
        pa.array(number), pa.array(block.user).cast(pa.string()), pa.array(block.time).cast(schemas.TIMESTAMP),
        pa.array(block.known), *(pa.ListArray.from_arrays(offsets, pa.array(values)) for values in lists),
    ]  # fmt: skip
    return pa.table(columns, schema=layout.REQUESTS_SCHEMA)


def _count(totals: _Totals, block: Block, vector: Ints, history_vector: Ints) -> None:
    totals.rows += len(vector)
    totals.positives += int((block.label > 0).sum())
    totals.requests += len(block.user)
    totals.impressions_with_vector += int((vector >= 0).sum())
    totals.behaviours += len(history_vector)
    totals.behaviours_with_vector += int((history_vector >= 0).sum())
    totals.cold_requests += int((block.known == 0).sum())
    for name, time in PARTS.items():
        totals.parts[name] += int((block.time[block.request] == time).sum())


def _card(source: Source, totals: _Totals, items: Items, vectors: Embeddings) -> dict[str, Any]:
    return {
        "source": source.name,
        "length": source.spec.length,
        "simtier": source.spec.spec_id,
        "space": layout.space_record(source.space),
        "rows": totals.rows,
        "positives": totals.positives,
        "requests": totals.requests,
        "cold_requests": totals.cold_requests,
        "items": len(items.number),
        "vectors": len(vectors),
        "coverage": {
            "impressions": totals.impressions_with_vector / max(totals.rows, 1),
            "behaviours": totals.behaviours_with_vector / max(totals.behaviours, 1),
        },
        "parts": totals.parts,
        "times": "not published: each part of the split is a day of its own from 1970-01-01",
        **source.said,
    }
