"""A process that writes to, or reads from, an online store until it is killed.

Run: ``python online_worker.py write|read|hold SETTINGS_JSON SEED``. The vector of an item follows from its id and version, so a reader
can tell a committed version from anything else. A reader that sees anything else exits with 9.
"""

import json
import sys
import time
import zlib

import numpy as np

from moontide import Embeddings, EmbeddingSpace, views
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import Status

SPACE = EmbeddingSpace("fault", 1, 32, "sha256:" + "c" * 64)
VIEW = views.embedding_view(SPACE)
ITEMS = [f"item{n}" for n in range(200)]


def vector_of(item, version):
    seed = zlib.crc32(f"{item}/{version}".encode())
    return np.random.default_rng(seed).normal(size=SPACE.dim).astype(np.float32)


def rows_of(items, versions):
    found = Embeddings.from_float(SPACE, np.stack([vector_of(i, v) for i, v in zip(items, versions)]), ids=items)
    return embedding_rows(found, source_version=np.array(versions), event_timestamp=1, encoded_at=1, content_known_at=1)


def check(store, items):
    """Every present record is exactly some version's; returns the versions (0 where there is none)."""
    records = store.read_records(VIEW, items)
    versions = dict(zip(records["item_id"].to_pylist(), records["source_version"].to_pylist()))
    codes = dict(zip(records["item_id"].to_pylist(), records["codes"].to_pylist()))
    for item, version in versions.items():
        expected = Embeddings.from_float(SPACE, vector_of(item, version)[None])
        if codes[item] != expected.codes[0].tobytes():
            print(f"{item}: version {version} with the codes of another", file=sys.stderr)
            sys.exit(9)
    return [versions.get(item, 0) for item in items]


def write(store, rng):
    while True:
        items = [ITEMS[n] for n in rng.choice(len(ITEMS), 40, replace=False)]
        store.write_rows(VIEW, rows_of(items, rng.integers(1, 1_000, 40).tolist()))
        print("wrote", flush=True)


def read(store, rng):
    last = dict.fromkeys(ITEMS, 0)
    while True:
        items = [ITEMS[n] for n in rng.choice(len(ITEMS), 100, replace=False)]
        for item, version in zip(items, check(store, items)):
            if version < last[item]:
                print(f"{item}: went back from {last[item]} to {version}", file=sys.stderr)
                sys.exit(9)
            last[item] = version
        assert set(store.read_matrix(VIEW, items).status.tolist()) <= {Status.PRESENT, Status.ABSENT}
        print("read", flush=True)


def hold(store, settings):
    import lmdb

    store.close()
    env = lmdb.open(str(settings.lmdb_path), max_dbs=2, max_readers=settings.lmdb_max_readers, map_size=settings.lmdb_map_size)
    transaction = env.begin()
    print("held", transaction.id(), flush=True)
    time.sleep(600)


def main():
    mode, settings, seed = sys.argv[1], Settings(**json.loads(sys.argv[2])), int(sys.argv[3])
    store = online_store(settings)
    if mode == "hold":
        hold(store, settings)
    else:
        {"write": write, "read": read}[mode](store, np.random.default_rng(seed))


if __name__ == "__main__":
    main()
