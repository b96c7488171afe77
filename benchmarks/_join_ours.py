"""The point-in-time join of `moontide.pit` from Parquet to arrays: row pointers first, then one gather."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._join_data import DIM, NAMES, files
from moontide.pit.ids import Ids
from moontide.pit.steps import Steps

_TIMES = ("event_timestamp", "content_known_at", "source_version")


def pointers(label_file: Path, feature_file: Path, pool: ThreadPoolExecutor, threads: int) -> np.ndarray:
    """(labels,) the feature row of each label, -1: none."""
    log = np.empty((4, _open(feature_file).metadata.num_rows), np.int64)
    cuts = _spans(_open(feature_file).num_row_groups, threads)
    # Only ids of the log need the labels' ids; its times are read meanwhile.
    begun = [pool.submit(_read_times, feature_file, groups, log) for groups in cuts]
    labels = _open(label_file).read(columns=["item_id", "event_timestamp"])
    label_ids = labels["item_id"].combine_chunks().dictionary_encode()
    items = Ids.of([label_ids.dictionary])
    list(pool.map(lambda groups: _read_ids(feature_file, groups, items, log), cuts))
    for read in begun:
        read.result()
    item, eligible, version, event = log
    steps = Steps.of(item, len(items) + 1, eligible, [version, event], np.ones(len(item), bool), threads=threads)
    asked, times = items.rows(label_ids), _int64(labels["event_timestamp"])
    found = [pool.submit(steps.at, asked[span], times[span]) for span in _spans(len(times), threads)]
    return np.concatenate([rows.result() for rows in found])


def _read_times(path, groups, log):
    """When each row of some row groups counts, and its write order, into their columns of `log`."""
    file = _open(path)
    at, _ = _rows_of(file, groups)
    for number in range(file.num_row_groups)[groups]:
        part = file.read_row_group(number, columns=list(_TIMES), use_threads=False)
        event, known, version = (_int64(part[name]) for name in _TIMES)
        span = slice(at, at := at + part.num_rows)
        np.maximum(event, known, out=log[1, span])
        log[2, span], log[3, span] = version, event


def _read_ids(path, groups, items, log):
    """Item rows; items without a label are as one that nobody asks for."""
    file = _open(path)
    first, last = _rows_of(file, groups)
    numbers = range(file.num_row_groups)[groups]
    item = items.rows(file.read_row_groups(numbers, columns=["item_id"], use_threads=False)["item_id"])
    log[0, first:last] = np.where(item < 0, len(items), item)


def _rows_of(file, groups):
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    first = sum(sizes[: groups.start])
    return first, first + sum(sizes[groups])


def _open(path):
    # Mapped, pages are read where they lie: half the time of a read that copies them first.
    return pq.ParquetFile(path, memory_map=True)


def _spans(count, parts):
    bounds = np.arange(parts + 1) * count // parts
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def _int64(column):
    return column.cast(pa.int64()).to_numpy()


def gather_scalars(path: Path, rows: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """(labels, columns) float32, zeros for -1; one column is in memory at a time and thread."""
    at = np.maximum(rows, 0)
    made = np.empty((len(rows), len(NAMES["scalars"])), np.float32)

    def one(n):
        values = _open(path).read(columns=[NAMES["scalars"][n]], use_threads=False).column(0).to_numpy()
        made[:, n] = values[at]

    list(pool.map(one, range(made.shape[1])))
    made[rows < 0] = 0
    return made


def gather_vectors(path: Path, rows: np.ndarray, pool: ThreadPoolExecutor, *, floats: bool) -> np.ndarray:
    """(labels, DIM) codes, or the float32 vectors they stand for; zeros for -1. Every row group is read once."""
    made = np.zeros((len(rows), DIM), np.float32 if floats else np.int8)
    meta = _open(path).metadata
    bounds = np.cumsum([0, *(meta.row_group(n).num_rows for n in range(meta.num_row_groups))])
    by_row = np.argsort(rows)
    cuts = np.searchsorted(rows[by_row], bounds)

    def some(n):
        labels = by_row[cuts[n] : cuts[n + 1]]
        part = _open(path).read_row_group(n, columns=["codes", "scale"] if floats else ["codes"], use_threads=False)
        at = rows[labels] - bounds[n]
        codes = _codes(part["codes"])[at]
        made[labels] = codes * part["scale"].to_numpy()[at, None] if floats else codes

    list(pool.map(some, range(meta.num_row_groups)))
    return made


def _codes(column):
    array = column.combine_chunks()
    array = array if isinstance(array, pa.Array) else array.chunk(0)
    return np.frombuffer(array.buffers()[2], np.int8)[array.offset * DIM :].reshape(-1, DIM)


def join(folder: Path, workload: str, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label rows, whether each has a feature row, and the values."""
    label_file, feature_file = files(folder, "codes" if workload == "floats" else workload)
    pa.set_cpu_count(threads)
    with ThreadPoolExecutor(threads) as pool:
        rows = pointers(label_file, feature_file, pool, threads)
        if workload == "scalars":
            values = gather_scalars(feature_file, rows, pool)
        else:
            values = gather_vectors(feature_file, rows, pool, floats=workload == "floats")
    return np.arange(len(rows)), rows >= 0, values
