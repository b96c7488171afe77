"""Opening of published Parquet files: what they must hold, said clearly where they do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from ranking.public.blocks import Ints

#: Rows read at once: with 1,000 behaviours each, 64 MB.
BATCH_ROWS = 8_192


def existing(path: Path, *, what: str) -> Path:
    """The path, or `Misconfigured`: `what` says what the data set should have there."""
    if not path.exists():
        raise Misconfigured(
            f"{path}: expected {what}, got nothing there; point --data at the folder that holds the published files"
        )
    return path


def facts(paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """For the card, which files were read: ``count``, ``bytes``, and ``digest`` of their names below `folder` and their sizes."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:16]
    return {"count": len(sizes), "bytes": sum(sizes.values()), "digest": digest}


def batches(path: Path, columns: Sequence[str], *, rows: int | None = None) -> Iterator[pa.RecordBatch]:
    """Some columns of a Parquet file, a batch of `rows` (default `BATCH_ROWS`) at a time.

    Raises:
        Misconfigured: not Parquet, or a column is missing.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Misconfigured(f"{path}: expected Parquet, got: {error}; download it again") from error
    with file:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise Misconfigured(f"{path}: expected columns {list(columns)}, got no {missing} among {file.schema_arrow.names}")
        for batch in file.iter_batches(batch_size=rows or BATCH_ROWS, columns=list(columns)):
            yield batch.select(list(columns))


def integers(batch: pa.RecordBatch, name: str, path: Path) -> Ints:
    """(B,) int64 of a column without nulls."""
    return _numbers(batch.column(name), np.int64, f"{path}: {name}")


def floats(batch: pa.RecordBatch, name: str, path: Path) -> NDArray[np.float32]:
    """(B,) float32 of a column without nulls."""
    values: NDArray[np.float32] = _numbers(batch.column(name), np.float32, f"{path}: {name}")
    return values


def lists(batch: pa.RecordBatch, name: str, path: Path) -> tuple[Ints, Ints]:
    """Integers of all lists end to end, and (B + 1,) offsets; a null list is an empty one."""
    column, where = batch.column(name), f"{path}: {name}"
    _require_list(column.type, where)
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = _numbers(pc.list_flatten(column), np.int64, where)
    return flat, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def matrix(batch: pa.RecordBatch, name: str, path: Path, width: int, kind: type[Any] = np.float32) -> NDArray[Any]:
    """(B, width) of a list column whose every list is so long.

    Raises:
        Misconfigured: another length, or no list.
    """
    column, where = batch.column(name), f"{path}: {name}"
    _require_list(column.type, where)
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if (sizes != width).any():
        raise Misconfigured(f"{where}: expected {width} values a row, got {int(sizes[sizes != width][0])}; download it again")
    return _numbers(pc.list_flatten(column), kind, where).reshape(-1, width)


def chosen(values: Mapping[str, NDArray[Any]], keep: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The kept rows of each."""
    return {name: rows[keep] for name, rows in values.items()}


def lists_of(flat: Ints, offsets: Ints, keep: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The kept lists."""
    sizes = np.diff(offsets)
    return flat[np.repeat(keep, sizes)], np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[keep])])


def _require_list(kind: pa.DataType, where: str) -> None:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise Misconfigured(f"{where}: expected lists, got {kind}")


def _numbers(values: pa.Array, kind: type[Any], where: str) -> NDArray[Any]:
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)) or values.null_count:
        raise Misconfigured(f"{where}: expected numbers without nulls, got {values.type} with {values.null_count} nulls")
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(kind)
