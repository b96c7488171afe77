"""Peak memory of ``jobs.training_set`` in one process while the labels grow and everything else stays.

Each run is a process of its own over generated labels, behaviours and an embedding log; the output is streamed to Parquet.
Run: ``python -m benchmarks.training_memory [--labels 100000 1000000 5000000]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._report import kilobytes, machine, table
from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.records import embedding_rows
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view

DIM, CANDIDATES = 64, 5
SPACE = EmbeddingSpace("moon", 1, DIM)
DAY, START = 86_400_000_000, 1_700_000_000_000_000
DAYS = 30
_WRITTEN = 1 << 18


def make_site(folder: Path, *, users: int, items: int, behaviours: int, seed: int = 0) -> None:
    """Behaviours over 30 days, and two versions of every item's vector."""
    rng = np.random.default_rng(seed)
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "spaces.toml").write_text(f'[[space]]\nname = "moon"\nversion = 1\ndim = {DIM}\n')
    tables = OfflineTables(home / "offline")
    for version, at in ((1, START - DAY), (2, START + DAYS * DAY // 2)):
        vectors = Embeddings.from_float(
            SPACE, rng.normal(size=(items, DIM)).astype(np.float32), ids=[f"i{n}" for n in range(items)]
        )
        rows = embedding_rows(vectors, source_version=version, event_timestamp=at, encoded_at=at, content_known_at=at)
        tables.append(embedding_view(SPACE), rows, writer=f"v{version}")
    times = np.sort(rng.integers(START, START + DAYS * DAY, behaviours))
    columns = [_ids("u", rng.integers(0, users, behaviours)), _ids("i", rng.integers(0, items, behaviours))]
    columns += [pa.array(["buy"] * behaviours), pa.array(times).cast(schemas.TIMESTAMP)]
    pq.write_table(pa.table(columns, schema=schemas.BEHAVIOURS), folder / "behaviours.parquet")


def make_labels(path: Path, count: int, *, users: int, items: int, seed: int = 1) -> None:
    """`count` labels in order of time, requests of 5; written in row groups, never whole in memory."""
    rng = np.random.default_rng(seed)
    fields = [schemas.IMPRESSIONS.field(name) for name in ("user_id", "item_id", "event_timestamp", "label")]
    step = DAYS * DAY // -(-count // CANDIDATES)
    with pq.ParquetWriter(path, pa.schema(fields)) as file:
        for at in range(0, count, _WRITTEN):
            request = np.arange(at, min(at + _WRITTEN, count)) // CANDIDATES
            user = np.random.default_rng(seed + 1).integers(0, users, int(request[-1]) + 1)[request]
            columns = [_ids("u", user), _ids("i", rng.integers(0, items, len(request)))]
            columns.append(pa.array(START + request * step).cast(schemas.TIMESTAMP))
            columns.append(pa.array((rng.random(len(request)) < 0.2).astype(np.float32)))
            file.write_table(pa.table(columns, schema=pa.schema(fields)))


def _ids(letter, numbers):
    return pa.array([f"{letter}{n}" for n in numbers.tolist()])


def run(folder: Path, labels: Path) -> dict[str, float]:
    """Seconds, peak resident and peak anonymous MB of one run; its rows are counted."""
    out = folder / "set"
    flags = ["--home", folder / "home", "--impressions", labels, "--behaviours", folder / "behaviours.parquet"]
    flags += ["--space", SPACE.id, "--out", out, "--overwrite", "--engine", "single"]
    begin = time.perf_counter()
    with (folder / "job.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "jobs.training_set", *map(str, flags)], stdout=log, stderr=log)
        peak = {"VmHWM": 0, "RssAnon": 0}
        while process.poll() is None:
            peak = {name: max(value, kilobytes(process.pid, name)) for name, value in peak.items()}
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit((folder / "job.log").read_text())
    rows = json.loads((out / "card.json").read_text())["rows"]
    size = sum(file.stat().st_size for file in out.rglob("*.parquet")) / 1e6
    seconds = time.perf_counter() - begin
    return {
        "rows": rows,
        "seconds": seconds,
        "resident": peak["VmHWM"] / 1024,
        "anonymous": peak["RssAnon"] / 1024,
        "written": size,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--behaviours", type=int, default=1_000_000)
    flags = parser.parse_args(arguments)
    print(machine(), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_site(folder, users=flags.users, items=flags.items, behaviours=flags.behaviours)
        for count in flags.labels:
            labels = folder / "labels.parquet"
            make_labels(labels, count, users=flags.users, items=flags.items)
            found = run(folder, labels)
            if found["rows"] != count:
                raise SystemExit(f"expected {count:,} rows, got {found['rows']:,}")
            rate, size = f"{count / found['seconds']:,.0f}", f"{found['written']:,.0f}"
            peaks = [f"{found[name]:,.0f}" for name in ("anonymous", "resident")]
            rows.append([f"{count:,}", f"{found['seconds']:.0f}", rate, *peaks, size])
            print(rows[-1], flush=True)
    print(table(["labels", "seconds", "labels/s", "peak anonymous MB", "peak resident MB", "MB written"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
