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
        reading = pool.submit(_ids, label_file, feature_file)
        log = pq.read_table(feature_file, columns=["event_timestamp", "content_known_at", "source_version"])
        event, known = (log[name].cast(pa.int64()).to_numpy() for name in log.column_names[:2])
        eligible, version = np.maximum(event, known), log["source_version"].to_numpy()
        times = pq.read_table(label_file, columns=["event_timestamp"])["event_timestamp"].cast(pa.int64()).to_numpy()
        count, item, label_item = reading.result()
    steps = Steps.of(item, count, eligible, [version, event], np.ones(len(event), bool))
    return steps.at(label_item, times)


def _ids(label_file, feature_file):
    """How many items, and those of the feature rows and of the labels as integers."""
    log, labels = (
        pq.read_table(f, columns=["item_id"], read_dictionary=["item_id"])["item_id"] for f in (feature_file, label_file)
    )
    whole = log.combine_chunks()
    items = Ids.of([whole.dictionary])
    return len(items), items.rows(whole), items.rows(labels)


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
