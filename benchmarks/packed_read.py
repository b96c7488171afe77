"""Packed read of 1,000 x 128-d from LMDB and Redis against Feast's SDK on its SQLite and Redis stores.

Every system holds the same 20,000 items and must return the same float32 matrix before anything is timed.
Run: ``python -m benchmarks.packed_read [--items 20000] [--rounds 9]``.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lmdb
import numpy as np
import pandas as pd
import pyarrow as pa
import redis

from benchmarks._report import interleave, machine, percentiles, ratio_interval, start_redis, table
from moontide import Embeddings, EmbeddingSpace
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import embedding_view

DIM, BATCH = 128, 1_000
SPACE = EmbeddingSpace("bench", 1, DIM)


def make_rows(count: int) -> tuple[pa.Table, Embeddings]:
    """`count` items as rows of the embedding table, and their vectors."""
    rng = np.random.default_rng(0)
    ids = [f"item:{n}" for n in range(count)]
    vectors = Embeddings.from_float(SPACE, rng.normal(size=(count, DIM)).astype(np.float32), ids=ids)
    at = 1_700_000_000_000_000
    rows = embedding_rows(vectors, source_version=1, event_timestamp=at, encoded_at=at, content_known_at=at)
    return rows, vectors


def feast_reader(folder: Path, online: str, vectors: Embeddings) -> Callable[[list[str]], np.ndarray]:
    """A Feast repository with one Array(Float32) view, filled through Feast; returns its SDK read as float32[B, D]."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Float32

    folder.mkdir(parents=True)
    source = folder / "empty.parquet"
    frame = pd.DataFrame(
        {
            "item_id": list(vectors.ids or ()),
            "embedding": list(vectors.to_float()),
            "event_timestamp": datetime.now(UTC) - timedelta(hours=1),
        }
    )
    frame.head(1).to_parquet(source)
    (folder / "feature_store.yaml").write_text(
        f"project: peer\nregistry: {folder}/registry.db\nprovider: local\nonline_store:\n{online}"
        "offline_store:\n  type: dask\nentity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(folder))
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="item_embedding",
        entities=[item],
        schema=[Field(name="embedding", dtype=Array(Float32))],
        source=FileSource(path=str(source), timestamp_field="event_timestamp"),
    )
    store.apply([item, view])
    for start in range(0, len(frame), 5_000):
        store.write_to_online_store("item_embedding", df=frame.iloc[start : start + 5_000])
    features = ["item_embedding:embedding"]

    def read(ids: list[str]) -> np.ndarray:
        answer = store.get_online_features(features=features, entity_rows=[{"item_id": i} for i in ids]).to_dict()
        return np.asarray(answer["embedding"], dtype=np.float32)

    return read


def floors(rows: Embeddings, folder: Path, client: redis.Redis) -> dict[str, Callable[[list[str]], object]]:
    """What no reader of this machine can beat: the same bytes gathered in process, from bare LMDB, by a bare MGET."""
    env = lmdb.open(str(folder), map_size=1 << 30)
    with env.begin(write=True) as txn:
        for item, codes in zip(rows.ids or (), rows.codes, strict=True):
            txn.put(item.encode(), codes.tobytes())
    with client.pipeline(transaction=False) as pipe:
        for item, codes in zip(rows.ids or (), rows.codes, strict=True):
            pipe.set("floor:" + item, codes.tobytes())
        pipe.execute()
    position = {item: n for n, item in enumerate(rows.ids or ())}

    def from_lmdb(ids: list[str]) -> object:
        with env.begin(buffers=True) as txn:
            return np.frombuffer(b"".join([txn.get(i.encode()) for i in ids]), np.int8)

    return {
        "floor: gather in process": lambda ids: rows.codes[[position[i] for i in ids]],
        "floor: bare LMDB gets": from_lmdb,
        "floor: bare redis-py MGET": lambda ids: np.frombuffer(b"".join(client.mget(["floor:" + i for i in ids])), np.int8),
    }


def run(items: int, rounds: int, folder: Path) -> str:
    """Fill every system, check that all agree, time them interleaved; returns the report."""
    before = machine()
    server, port = start_redis(folder)
    try:
        rows, vectors = make_rows(items)
        view = embedding_view(SPACE)
        ours = {}
        for kind in ("lmdb", "redis"):
            settings = Settings(home=folder / kind, online=kind, redis_url=f"redis://127.0.0.1:{port}/1")
            store = online_store(settings)
            store.write_rows(view, rows)
            ours[kind] = store
        feast = {
            "Feast SDK, SQLite": feast_reader(folder / "fs", f"  type: sqlite\n  path: {folder}/fs.db\n", vectors),
            "Feast SDK, Redis": feast_reader(
                folder / "fr", f"  type: redis\n  connection_string: 127.0.0.1:{port},db=2\n", vectors
            ),
        }
        rng = np.random.default_rng(1)
        position = {item: n for n, item in enumerate(vectors.ids or ())}

        # Drawn before the clock starts: a ranker has its ids, and naming 1,000 of them costs as much as a read.
        requests = [[f"item:{n}" for n in rng.integers(0, items, BATCH)] for _ in range(64)]
        drawn = itertools.cycle(requests)

        readers: dict[str, Callable[[list[str]], object]] = {
            "moontide read_embeddings, LMDB": lambda ids: ours["lmdb"].read_embeddings(SPACE, ids),
            "moontide read_embeddings, Redis": lambda ids: ours["redis"].read_embeddings(SPACE, ids),
            "moontide read_matrix (float32), LMDB": lambda ids: ours["lmdb"].read_matrix(view, ids).values,
            "moontide read_matrix (float32), Redis": lambda ids: ours["redis"].read_matrix(view, ids).values,
            **feast,
            **floors(vectors, folder / "bare", redis.Redis(port=port, db=3)),
        }
        ids = requests[0]
        expected = vectors.take(np.array([position[i] for i in ids])).to_float()
        for name, read in readers.items():
            got = read(ids)
            if name.startswith("floor"):
                continue
            matrix = got.to_float() if isinstance(got, Embeddings) else got
            if not np.array_equal(matrix, expected):
                raise SystemExit(f"{name}: values differ from the oracle; nothing was timed")
        cells = {name: (lambda read=read: read(next(drawn))) for name, read in readers.items()}
        calls = {name: 5 if name.startswith("Feast") else 40 for name in cells}
        times = interleave(cells, rounds=rounds, calls=calls)
    finally:
        server.terminate()
    return report(times, before, items)


def report(times: dict[str, list[float]], before: str, items: int) -> str:
    """The table, with the share of the floor and the ratio to each Feast store."""
    rows = []
    for name, values in times.items():
        least, p50, p99 = percentiles(values)
        ratios = []
        for peer in ("Feast SDK, SQLite", "Feast SDK, Redis"):
            if name.startswith("moontide"):
                mid, low, high = ratio_interval(times[peer], values)
                ratios.append(f"{mid:.0f}x [{low:.0f}, {high:.0f}]")
            else:
                ratios.append("")
        floor = "floor: bare LMDB gets" if "LMDB" in name else "floor: bare redis-py MGET"
        share = f"{percentiles(times[floor])[1] / p50:.0%}" if name.startswith("moontide") else ""
        rows.append([name, f"{least:.2f}", f"{p50:.2f}", f"{p99:.2f}", share, *ratios])
    head = ["reader", "min ms", "p50 ms", "p99 ms", "% of floor", "vs Feast SQLite", "vs Feast Redis"]
    note = f"{BATCH:,} random ids of {items:,} items, {DIM}-d, every system checked equal first. {before}"
    return f"{note}\n\n{table(head, rows)}\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(run(args.items, args.rounds, Path(folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
