"""A training set read in order, a piece at a time: impressions beside the requests they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit import layout

Ints = NDArray[np.int64]
BATCH_ROWS = 1 << 15


class Piece(NamedTuple):
    """Some impressions: `rows` (I rows), their `requests`, and `place` (I,), the row of each impression's request."""

    rows: pa.Table
    requests: pa.Table
    place: Ints


def pieces(
    folder: Path, *, columns: Sequence[str] | None = None, request_columns: Sequence[str] | None = None, batch: int = BATCH_ROWS
) -> Iterator[Piece]:
    """Every impression of a training set once, in order; memory holds one piece.

    Args:
        folder: the training set.
        columns: of the impressions, `request` among them; default: all.
        request_columns: of the requests, `request` among them; default: all.
        batch: impressions of a piece, at most.

    Raises:
        Misconfigured: no training set, or an impression without its request.
    """
    coming = _batches(folder / layout.REQUESTS, request_columns, batch)
    waiting = next(coming)
    numbers = _numbers(waiting)
    for rows in _batches(folder / layout.IMPRESSIONS, columns, batch):
        wanted = _numbers(rows)
        if not len(wanted):
            continue
        while not len(numbers) or numbers[-1] < wanted[-1]:
            more = next(coming, None)
            if more is None:
                break
            # What lies before this piece is done with, since both sides rise.
            kept = waiting.slice(int(np.searchsorted(numbers, wanted[0])))
            waiting = pa.concat_tables([kept, more]).combine_chunks()
            numbers = _numbers(waiting)
        place = np.searchsorted(numbers, wanted)
        if not len(numbers) or bool((numbers[np.minimum(place, len(numbers) - 1)] != wanted).any()):
            raise Misconfigured(f"{folder}: expected each impression after its request, got others; make the training set anew")
        first, last = int(place[0]), int(place[-1]) + 1
        yield Piece(rows, waiting.slice(first, last - first), (place - first).astype(np.int64))


def _batches(folder: Path, columns: Sequence[str] | None, batch: int) -> Iterator[pa.Table]:
    for path in layout.part_files(folder):
        with pq.ParquetFile(path) as source:
            empty = source.schema_arrow.empty_table()
            yield empty if columns is None else empty.select(list(columns))
            for found in source.iter_batches(batch_size=batch, columns=None if columns is None else list(columns)):
                yield pa.Table.from_batches([found])


def _numbers(table: pa.Table) -> Ints:
    found: Ints = table["request"].to_numpy()
    return found
