"""One system of `benchmarks.join` in a process of its own: a line on stdin asks for a run, a line on stdout replies.

``python -m benchmarks._join_systems NAME FOLDER WORKLOAD THREADS LABELS``; everyone reads the same files and ends with arrays.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import _join_ours
from benchmarks._join_data import DIM, NAMES, SCALARS, files, matrix
from benchmarks._report import kilobytes

MARK = "@@"
_AS_OF = """SELECT l.label_row, {columns} FROM '{labels}' l ASOF LEFT JOIN (
  SELECT item_id, greatest(event_timestamp, content_known_at) AS eligible, {columns} FROM '{features}'
) f ON l.item_id = f.item_id AND l.event_timestamp >= f.eligible"""


def duckdb_asof(folder, workload, threads):
    """ASOF LEFT JOIN by hand."""
    import duckdb

    session = duckdb.connect()
    session.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    labels, features = files(folder, workload)
    text = _AS_OF.format(columns=", ".join(NAMES[workload]), labels=labels, features=features)
    return lambda: _arrays(session.sql(text).to_arrow_table(), workload)


def polars_asof(folder, workload, threads):
    """join_asof by item."""
    import polars as pl

    label_file, feature_file = files(folder, workload)

    def run():
        labels = pl.scan_parquet(label_file).sort("event_timestamp")
        eligible = pl.max_horizontal("event_timestamp", "content_known_at").alias("eligible")
        log = pl.scan_parquet(feature_file).select("item_id", eligible, *NAMES[workload]).sort("eligible")
        joined = labels.join_asof(log, left_on="event_timestamp", right_on="eligible", by="item_id", strategy="backward")
        return _arrays(joined.select("label_row", *NAMES[workload]).collect().to_arrow(), workload)

    return run


def _feast(store_of):
    def make(folder, workload, threads):
        import pandas as pd
        from feast import Entity, FeatureStore, FeatureView, Field, ValueType
        from feast.repo_config import RepoConfig
        from feast.types import Array, Bytes, Float32

        label_file, feature_file = files(folder, workload)
        offline, source, before = store_of(feature_file, threads)
        home = folder / f"feast-{offline['type']}-{workload}"
        home.mkdir(exist_ok=True)
        config = RepoConfig(
            project="peer",
            registry=str(home / "registry.db"),
            provider="local",
            online_store=None,
            offline_store=offline,
            entity_key_serialization_version=3,
        )
        config.repo_path = home
        store = FeatureStore(config=config)
        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
        kind = {"codes": Bytes, "floats": Array(Float32), "scalars": Float32}[workload]
        fields = [Field(name=name, dtype=kind) for name in NAMES[workload]]
        store.apply([item, FeatureView(name="log", entities=[item], schema=fields, source=source)])

        def run():
            before()
            job = store.get_historical_features(pd.read_parquet(label_file), [f"log:{name}" for name in NAMES[workload]])
            return _arrays(job.to_arrow(), workload)

        return run

    return make


def _file_store(kind):
    def store_of(path, threads):
        from feast import FileSource

        _limit_threads(kind, threads)
        times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "content_known_at"}
        return {"type": kind}, FileSource(name="log", path=str(path), **times), lambda: None

    return store_of


def _limit_threads(kind, threads):
    if kind == "dask":
        import dask

        dask.config.set(num_workers=threads)
    else:
        import ibis

        ibis.set_backend(ibis.duckdb.connect(threads=threads))


def _spark_store(path, threads):
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from pyspark.sql import SparkSession

    conf = {
        "spark.master": f"local[{threads}]",
        "spark.driver.memory": "6g",
        "spark.driver.maxResultSize": "0",
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
    }
    builder = SparkSession.builder
    for key, value in conf.items():
        builder = builder.config(key, value)
    builder.getOrCreate().sparkContext.setLogLevel("ERROR")
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "content_known_at"}
    return (
        {"type": "spark", "spark_conf": conf},
        SparkSource(name="log", path=str(path), file_format="parquet", **times),
        lambda: None,
    )


def _ours(folder, workload, threads):
    return lambda: _join_ours.join(folder, workload, threads)


def _arrays(joined: pa.Table, workload: str):
    """Label rows, whether each has a feature row, values; in the order of the answer."""
    rows = joined["label_row"].to_numpy()
    first = joined[NAMES[workload][0]]
    if workload == "scalars":
        values = matrix(joined, workload)
        return rows, ~np.isnan(values[:, 0]), np.nan_to_num(values)
    return rows, first.is_valid().to_numpy(), matrix(joined.select([NAMES[workload][0]]), workload)


SYSTEMS = {
    "moontide": _ours,
    "DuckDB ASOF": duckdb_asof,
    "Polars join_asof": polars_asof,
    "Feast duckdb": _feast(_file_store("duckdb")),
    "Feast Spark": _feast(_spark_store),
    "Feast dask": _feast(_file_store("dask")),
}


def in_label_order(answer, workload: str, labels: int):
    """Values (labels, D) by label row: every system has to give this back, whatever order its engine leaves the rows in."""
    rows, present, values = answer
    if len(rows) == labels and (rows == np.arange(labels)).all():
        return present, values
    wide = SCALARS if workload == "scalars" else DIM
    made, found = np.zeros((labels, wide), values.dtype), np.zeros(labels, bool)
    made[rows], found[rows] = values, present
    return found, made


def main() -> int:
    name, folder, workload, threads, labels = sys.argv[1:]
    run = SYSTEMS[name](Path(folder), workload, int(threads))
    reply({"ready": os.getpid()})
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        begin, cpu = time.perf_counter(), time.process_time()
        answer = run()
        present, values = in_label_order(answer, workload, int(labels))
        took = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
        if command == "answer":
            chosen = np.load(path)["labels"]
            weights = np.random.default_rng(0).normal(size=values.shape[1]).astype(np.float32)
            digest = np.concatenate(
                [values[at : at + 65_536].astype(np.float32) @ weights for at in range(0, len(values), 65_536)]
            )
            rows = np.bincount(answer[0], minlength=int(labels))
            np.savez(path, labels=chosen, present=present, values=values[chosen], digest=digest, times=rows)
        del answer, present, values
        took["peak_mb"] = kilobytes(os.getpid(), "VmHWM") / 1024
        reply(took)
    return 0


def reply(said: dict) -> None:
    print(MARK + json.dumps(said), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
