"""The end of a training set: no label lost, the vectors that are pointed to, the items, the card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs._rejects import Rejected, RejectFile
from jobs._training_set import TrainingJob
from moontide import schemas
from moontide.errors import Transient
from moontide.pit import layout
from moontide.pit.build import Sources
from moontide.pit.card import Fingerprint, Tally
from moontide.pit.stream import pieces
from moontide.pit.versions import VersionLog
from moontide.records import binary_rows

_COLUMNS = ("label_row", "request", "item", "vector", "label", "missing")
_REQUEST_COLUMNS = ("request", "user_id", "event_timestamp", "known", "history_vectors")
_VECTOR_ROWS = 1 << 16


class LabelRejects:
    """Labels that are turned away go to the reject file, and are remembered, so that the rest can be checked to be whole."""

    def __init__(self, job: TrainingJob, file: RejectFile) -> None:
        self.rows = Fingerprint()
        self._file = file
        self._first: dict[str, int] = {}
        total = 0
        for unit in job.table.units:
            self._first.setdefault(unit.path, total)
            total += unit.rows

    def add(self, rejects: Iterable[Rejected]) -> None:
        """Take rejects of the labels' files."""
        for reject in rejects:
            self.rows.add(np.array([self._first[reject.source] + reject.row], np.int64))
            self._file.add([reject])


def finish(job: TrainingJob, sources: Sources, rejected: LabelRejects, cutoff: int | None) -> dict[str, Any]:
    """Check the parts, write ``items.parquet`` and ``vectors.parquet``; returns the counted part of the card.

    Raises:
        Transient: a label is missing, is there twice, or is none of the input's.
    """
    log = None if sources.vectors is None else sources.vectors[0]
    tally = Tally(len(sources.items), 0 if log is None else len(log), job.labels, cutoff)
    for piece in pieces(job.out, columns=(*_COLUMNS, *job.labels), request_columns=_REQUEST_COLUMNS):
        tally.add(piece.rows, piece.requests, piece.place)
    if tally.rows + rejected.rows != Fingerprint.below(job.table.rows):
        raise Transient(
            f"training set: expected each of {job.table.rows:,} labels once, got {tally.rows.count:,} made and "
            f"{rejected.rows.count:,} rejected, or others; leave the input alone while the job runs, then run it again"
        )
    items = pa.table(
        [pa.array(np.arange(len(sources.items), dtype=np.int32)), sources.items.strings()], schema=layout.ITEMS_SCHEMA
    )
    layout.write_whole(job.out / layout.ITEMS, items)
    write_vectors(job.out / layout.VECTORS, log, tally.used, sources)
    return tally.card()


def write_vectors(path: Path, log: VersionLog | None, used: NDArray[np.bool_], sources: Sources) -> None:
    """The rows of the log that are used, in order."""
    schema = layout.vectors_schema(None if log is None else log.space)
    staged = path.with_name(f".{path.name}.part")
    rows = np.flatnonzero(used)
    with pq.ParquetWriter(staged, schema, compression="zstd") as out:
        for start in range(0, len(rows), _VECTOR_ROWS):
            if log is not None:
                out.write_table(pa.table(_vectors(log, rows[start : start + _VECTOR_ROWS], sources), schema=schema))
    staged.replace(path)


def _vectors(log: VersionLog, rows: NDArray[np.int64], sources: Sources) -> Mapping[str, pa.Array]:
    vectors = log.vectors.take(rows)
    return {
        "vector": pa.array(rows.astype(np.int32)),
        "item_id": sources.items.strings(log.item[rows]),
        "source_version": pa.array(log.source_version[rows]),
        "event_timestamp": pa.array(log.event_timestamp[rows]).cast(schemas.TIMESTAMP),
        "codes": binary_rows(vectors.codes),
        "scale": pa.array(vectors.scale),
        "inv_norm": pa.array(vectors.inv_norm),
    }
