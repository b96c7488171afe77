"""The point-in-time join of `moontide.pit` from Parquet to arrays: row pointers first, then one gather."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._join_data import DIM, NAMES, files, matrix
from moontide.pit.ids import Ids
from moontide.pit.steps import Steps


def pointers(label_file: Path, feature_file: Path, threads: int) -> np.ndarray:
    """(labels,) the feature row of each label, -1: none."""
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(_read_ids, feature_file, n, threads) for n in range(threads)]
        wanted = pool.submit(_read_ids, label_file, 0, 1)
        log = pq.read_table(feature_file, columns=["event_timestamp", "content_known_at", "source_version"])
        event, known = (log[name].cast(pa.int64()).to_numpy() for name in log.column_names[:2])
        eligible, version = np.maximum(event, known), log["source_version"].to_numpy()
        times = pq.read_table(label_file, columns=["event_timestamp"])["event_timestamp"].cast(pa.int64()).to_numpy()
        columns = [part.result() for part in parts]
        items = Ids.of([column.dictionary for column in columns])
        item, label_item = np.concatenate(list(pool.map(items.rows, columns))), items.rows(wanted.result())
    steps = Steps.of(item, len(items), eligible, [version, event], np.ones(len(event), bool))
    return steps.at(label_item, times)


def _read_ids(path, part, parts):
    """One part of a file's ids, dictionary encoded."""
    file = pq.ParquetFile(path, read_dictionary=["item_id"])
    bounds = np.arange(parts + 1) * file.num_row_groups // parts
    groups = list(range(bounds[part], bounds[part + 1]))
    found = file.read_row_groups(groups, columns=["item_id"], use_threads=False)["item_id"].combine_chunks()
    return found if isinstance(found, pa.Array) else found.chunk(0)


def gather(path: Path, rows: np.ndarray, workload: str, threads: int) -> np.ndarray:
    """The values of `rows`, zeros for -1; every row group is read once."""
    wide = len(NAMES[workload]) if workload == "scalars" else DIM
    made = np.zeros((len(rows), wide), np.int8 if workload == "codes" else np.float32)
    by_row = np.argsort(rows)
    groups = pq.ParquetFile(path).metadata
    bounds = np.cumsum([0, *(groups.row_group(n).num_rows for n in range(groups.num_row_groups))])
    cuts = np.searchsorted(rows[by_row], bounds)
    columns = ["codes", "scale"] if workload == "floats" else NAMES[workload]

    def some(first):
        file = pq.ParquetFile(path)
        for n in range(first, groups.num_row_groups, threads):
            labels = by_row[cuts[n] : cuts[n + 1]]
            part = file.read_row_group(n, columns=columns, use_threads=False)
            inside = rows[labels] - bounds[n]
            values = matrix(part, "codes" if workload == "floats" else workload)[inside]
            made[labels] = values if workload != "floats" else values * part["scale"].to_numpy()[inside, None]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))
    return made


def join(folder: Path, workload: str, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label rows, whether each has a feature row, and the values."""
    label_file, feature_file = files(folder, "codes" if workload == "floats" else workload)
    rows = pointers(label_file, feature_file, threads)
    return np.arange(len(rows)), rows >= 0, gather(feature_file, rows, workload, threads)
