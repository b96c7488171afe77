"""A process that writes versions of items as fast as it can, to a store or a vector table, until it is killed.

Run: ``python torn_writer.py table|half FOLDER SEED`` or ``python torn_writer.py store SETTINGS_JSON SEED``. Codes and scale of a record
follow from its version, so that a mixture of two versions is seen as one.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from moontide import Embeddings, EmbeddingSpace, views
from moontide.order import WriteOrder
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.kv import wall_clock
from serving.table_writer import TableWriter

SPACE = EmbeddingSpace("torn", 1, 256)
ITEMS = [f"item{n}" for n in range(300)]
CAPACITY = 300
_STEP = np.arange(SPACE.dim)


def vectors_of(ids, versions):
    """(B, D): the first three codes are digits of the version, the others follow from all of it."""
    versions = np.asarray(versions, np.int64)
    codes = (versions[:, None] * (2 * _STEP + 1) + _STEP * _STEP) % 253 - 126
    for digit in range(3):
        codes[:, digit] = versions // 100**digit % 100
    return Embeddings.from_codes(SPACE, codes.astype(np.int8), versions.astype(np.float32), ids=list(ids))


def wrong_rows(found):
    """Rows of present vectors that are no version at all."""
    digits = found.codes[:, :3].astype(np.int64)
    versions = digits[:, 0] + 100 * digits[:, 1] + 10_000 * digits[:, 2]
    expected = vectors_of([""] * len(found), versions)
    same = (found.codes == expected.codes).all(axis=1) & (found.scale == expected.scale) & (found.inv_norm == expected.inv_norm)
    return np.flatnonzero(found.present & ~same)


def write_table(folder, rng):
    table, version = TableWriter(Path(folder), SPACE, CAPACITY, wall_clock), int(rng.integers(1, 1_000))
    print("ready", flush=True)
    while True:
        version += 1
        some = rng.choice(len(ITEMS), 64, replace=False)
        table.upsert(vectors_of([ITEMS[n] for n in some], [version] * 64), [WriteOrder(version, version, 0).pack()] * 64)


class HalfWriter(TableWriter):
    """Stops in the middle of a write and waits to be killed."""

    def _put(self, at, vectors, of, orders):
        if len(self._rows) < len(ITEMS):
            super()._put(at, vectors, of, orders)
            return
        self._parts.heads["sequence"][at] += np.uint64(1)
        self._parts.codes[at[: len(at) // 2]] = vectors.codes[of[: len(at) // 2]]
        print("ready", flush=True)
        time.sleep(600)


def write_half(folder, rng):
    table = HalfWriter(Path(folder), SPACE, CAPACITY, wall_clock)
    table.upsert(vectors_of(ITEMS, [1] * len(ITEMS)), [WriteOrder(1, 1, 0).pack()] * len(ITEMS))
    table.upsert(vectors_of(ITEMS[:64], [2] * 64), [WriteOrder(2, 2, 0).pack()] * 64)


def write_store(options, rng):
    store, version = online_store(Settings(**json.loads(options))), 0
    while True:
        version += 1
        some = vectors_of([ITEMS[n] for n in rng.choice(len(ITEMS), 64, replace=False)], [version] * 64)
        store.write_rows(
            views.embedding_view(SPACE),
            embedding_rows(some, source_version=version, event_timestamp=version, encoded_at=1, content_known_at=1),
        )
        if version == 30:
            print("ready", flush=True)


def main():
    kind, where, seed = sys.argv[1:]
    {"table": write_table, "half": write_half, "store": write_store}[kind](where, np.random.default_rng(int(seed)))


if __name__ == "__main__":
    main()
