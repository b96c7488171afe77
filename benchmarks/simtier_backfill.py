"""`jobs.simtier_backfill` as a whole: pairs in Parquet to counts offline and online, with an LMDB store.

A site is made (items with random vectors, users with 50 behaviours, each with 100 candidates), then the job runs as a user types
it; what is measured is that process. Run: ``python -m benchmarks.simtier_backfill [--pairs 1000000] [--items 50000]``.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._report import machine
from moontide import Embeddings, schemas, views
from moontide.live import load_spaces
from moontide.native import CHOSEN
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store

ROOT = Path(__file__).parents[1]
NOW = 1_700_000_000_000_000
CANDIDATES, LENGTH, DIM = 100, 50, 128
SPEC = "moon_v1_n20_l50_drop"
SPACES = f"""
[[space]]
name = "moon"
version = 1
dim = {DIM}
[[simtier]]
space = "moon_v1"
tiers = 20
length = {LENGTH}
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "{SPEC}"
item_fields = []
"""


def make(home: Path, items: int, users: int) -> None:
    """Vectors, sequences and ``pairs.parquet``."""
    (home / "spaces.toml").write_text(SPACES)
    space, rng = load_spaces(home / "spaces.toml").space("moon_v1"), np.random.default_rng(0)
    store = online_store(Settings(home=home, online="lmdb"))
    ids = np.array([f"i{n}" for n in range(items)], object)
    for at in range(0, items, 5_000):
        part = ids[at : at + 5_000].tolist()
        vectors = Embeddings.from_float(space, rng.normal(size=(len(part), DIM)).astype(np.float32), ids=part)
        times = {"event_timestamp": NOW, "encoded_at": NOW, "content_known_at": NOW}
        store.write_rows(views.embedding_view(space), embedding_rows(vectors, source_version=1, **times))
    for at in range(0, users, 500):
        store.write_rows(views.user_sequence(), sequences([f"u{n}" for n in range(at, min(at + 500, users))], ids, rng))
    store.close()
    pairs = {"user_id": np.repeat([f"u{n}" for n in range(users)], CANDIDATES), "item_id": rng.choice(ids, users * CANDIDATES)}
    pq.write_table(pa.table(pairs), home / "pairs.parquet")


def sequences(users: list[str], ids: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Each user's last behaviours, items drawn at random."""
    count, times = len(users), list(range(NOW - LENGTH, NOW))
    columns = {
        "user_id": users, "event_timestamp": [NOW] * count, "created": [NOW] * count, "times": [times] * count,
        "item_ids": rng.choice(ids, (count, LENGTH)).tolist(), "actions": [["buy"] * LENGTH] * count,
        "sequence_version": [0] * count,
    }  # fmt: skip
    arrays = [pa.array(columns[field.name], field.type) for field in schemas.USER_SEQUENCE]
    return pa.table(arrays, schema=schemas.USER_SEQUENCE)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=50_000)
    flags = parser.parse_args(arguments)
    print(f"{machine()}; tier kernel: {CHOSEN.name}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make(home, flags.items, max(flags.pairs // CANDIDATES, 1))
        job = ["jobs.simtier_backfill", "--home", folder, "--spec", SPEC, "--pairs", str(home / "pairs.parquet")]
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *job], cwd=ROOT, env=os.environ | {"MOONTIDE_ONLINE": "lmdb"}, check=False)
        seconds, used = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(
        f"{flags.pairs:,} pairs: {seconds:.1f} s, {flags.pairs / seconds:,.0f} pairs/s, {cpu:.1f} s of processor time, "
        f"peak {used.ru_maxrss / 1024:,.0f} MB"
    )
    print(f"load after: {', '.join(f'{x:.2f}' for x in os.getloadavg())}")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
