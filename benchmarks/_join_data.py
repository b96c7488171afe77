"""Data of the point-in-time join: a feature log, labels, and the answer by brute force on a sample."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM, SCALARS = 128, 10
YEAR = 365 * 86_400_000_000
START = 1_700_000_000_000_000
LATE, COLD = 0.01, 0.02
SAMPLE = 10_000
_GROUP = 1 << 17
_STAMP = pa.timestamp("us", tz="UTC")
#: Columns of each workload: the vector as bytes, the same vector as Feast and others keep it, and plain numbers.
NAMES = {"codes": ["codes"], "floats": ["vector"], "scalars": [f"f{n}" for n in range(SCALARS)]}


@dataclass(frozen=True)
class Size:
    """How much: label rows, feature rows, keys that have features."""

    labels: int = 1_000_000
    rows: int = 5_000_000
    keys: int = 200_000


SMALL = Size(4_000, 20_000, 800)


def files(folder: Path, workload: str) -> tuple[Path, Path]:
    """The labels, and the features of one workload."""
    return folder / "labels.parquet", folder / f"{workload}.parquet"


def make(folder: Path, size: Size, *, seed: int = 0) -> None:
    """Write labels and both feature logs, in order of event time, as a log lies on disk.

    1 % of the feature rows are known late, some time before the next row of their key; 2 % of the labels have a key without
    features; times are uniform, so about 4 % of the labels precede the first row of their key.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    key = rng.integers(0, size.keys, size.rows)
    event = START + np.sort(rng.integers(0, YEAR - size.rows, size.rows)) + np.arange(size.rows)
    known = np.where(
        rng.random(size.rows) < LATE, event + (_until_next(key, event) * rng.random(size.rows)).astype(np.int64), event
    )
    stamps = {"item_id": _ids(key), "event_timestamp": pa.array(event, _STAMP), "content_known_at": pa.array(known, _STAMP)}
    rows = pa.table(stamps | {"source_version": pa.array(np.arange(size.rows))})
    for workload in NAMES:
        _write(files(folder, workload)[1], rows, workload, seed)
    cold = rng.random(size.labels) < COLD
    item = np.where(cold, size.keys, 0) + rng.integers(0, size.keys, size.labels)
    twice = rng.random(size.labels) < 0.01
    time = START + rng.integers(0, YEAR, size.labels)
    item[1:][twice[1:]], time[1:][twice[1:]] = item[:-1][twice[1:]], time[:-1][twice[1:]]
    labels = {"label_row": np.arange(size.labels), "item_id": _ids(item), "event_timestamp": pa.array(time, _STAMP)}
    # The labels say that all files are there.
    whole = files(folder, "codes")[0]
    pq.write_table(pa.table(labels), whole.with_suffix(".part"))
    whole.with_suffix(".part").replace(whole)


def _until_next(key, event):
    order = np.lexsort((event, key))
    gap = np.diff(event[order], append=event.max() + 86_400_000_000)
    same = np.append(key[order][1:] == key[order][:-1], False)
    room = np.empty(len(key), np.int64)
    room[order] = np.where(same, gap, 86_400_000_000) - 1
    return room


def _ids(numbers):
    return pa.array([f"item:{n}" for n in numbers.tolist()])


def _write(path, rows, workload, seed):
    """Row groups of 131,072; `codes` and `floats` hold the same vectors, for they are drawn from the same seed."""
    kinds = {
        "codes": [("codes", pa.binary()), ("scale", pa.float32())],
        "floats": [("vector", pa.list_(pa.float32()))],
        "scalars": [(name, pa.float32()) for name in NAMES["scalars"]],
    }[workload]
    schema = pa.schema([*rows.schema, *(pa.field(*kind) for kind in kinds)])
    rng = np.random.default_rng(seed)
    with pq.ParquetWriter(path, schema, use_dictionary=["item_id"]) as file:
        for at in range(0, rows.num_rows, _GROUP):
            part = rows.slice(at, _GROUP)
            values = _values(part.num_rows, workload, rng)
            file.write_table(pa.table([*part.columns, *values], schema=schema), row_group_size=_GROUP)


def _values(count, workload, rng):
    if workload == "scalars":
        return list(map(pa.array, rng.normal(size=(SCALARS, count)).astype(np.float32)))
    codes = rng.integers(-127, 128, (count, DIM), dtype=np.int8)
    scale = rng.random(count, np.float32)
    offsets = np.arange(count + 1, dtype=np.int32) * DIM
    if workload == "codes":
        return [pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(codes)]), pa.array(scale)]
    return [pa.ListArray.from_arrays(pa.array(offsets), pa.array((codes * scale[:, None]).ravel()))]


@dataclass(frozen=True)
class Oracle:
    """The answer for a sample: label rows, their feature rows (-1: none), the values, and where Feast's rule differs."""

    labels: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    late: np.ndarray


def oracle(folder: Path, workload: str, *, seed: int = 1) -> Oracle:
    """By brute force over a sample of the labels.

    The row with the highest version among those with ``max(event_timestamp, content_known_at) <= t``; Feast's rule looks at
    ``event_timestamp`` only.
    """
    label_file, feature_file = files(folder, workload)
    labels, log = pq.read_table(label_file), pq.read_table(feature_file)
    chosen = np.sort(np.random.default_rng(seed).permutation(labels.num_rows)[:SAMPLE])
    picked = labels.take(chosen)
    wanted = set(picked["item_id"].to_pylist())
    versions = defaultdict(list)
    columns = [log[n].to_pylist() if n == "item_id" else log[n].cast(pa.int64()).to_pylist() for n in log.column_names[:4]]
    for row, (item, event, known, order) in enumerate(zip(*columns, strict=True)):
        if item in wanted:
            versions[item].append((order, row, event, known))
    found, plain = [], []
    for item, time in zip(picked["item_id"].to_pylist(), picked["event_timestamp"].cast(pa.int64()).to_pylist(), strict=True):
        found.append(max((v for v in versions[item] if max(v[2:]) <= time), default=(0, -1))[1])
        plain.append(max((v for v in versions[item] if v[2] <= time), default=(0, -1))[1])
    rows = np.array(found)
    taken = log.take(np.maximum(rows, 0))
    return Oracle(chosen, rows, matrix(taken, workload), rows != np.array(plain))


def matrix(rows: pa.Table, workload: str) -> np.ndarray:
    """The feature columns as one array, (R, 128) int8 or float32 or (R, 10) float32; a null is 0."""
    if workload == "scalars":
        return np.stack([rows[name].to_numpy() for name in NAMES[workload]], axis=1)
    column = rows[NAMES[workload][0]].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    made = np.zeros((len(column), DIM), np.int8 if workload == "codes" else np.float32)
    if workload == "codes":
        column = column.cast(pa.binary())
        values = np.frombuffer(column.buffers()[2], np.int8)[column.offset * DIM :]
    else:
        values = column.flatten().to_numpy()
    present = column.is_valid().to_numpy(zero_copy_only=False)
    if present.all():
        return values.reshape(-1, DIM)
    made[present] = values[: present.sum() * DIM].reshape(-1, DIM)
    return made
