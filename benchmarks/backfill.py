"""Backfill: speed beside a bare ONNX Runtime loop, and memory and time at 100,000 and 1,000,000 items.

    python -m benchmarks.backfill speed [--catalog examples/data/catalog.parquet] [--repeat 12] [--rounds 3]
    python -m benchmarks.backfill scale [--items 100000 1000000]

Prints Markdown tables. `speed` interleaves both sides in one run on the same cores; Spark is started and warmed before. The bare
loop is one process per core, each with its own one-thread session, over the same items in batches of the same size: reading,
decoding, tokenising and the model, nothing else. `scale` samples the anonymous memory (``RssAnon``) of the driver, of the JVM and
of every Python worker once a second; pages of the LMDB file and of Parquet are page cache and not counted.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._report import kilobytes

ROOT = Path(__file__).parents[1]
BATCH = 256
DIM = 128
ENCODED = re.compile(r"encode: [\d,]+/[\d,]+ \(100 %\), ([\d,]+) items/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="what", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--catalog", type=Path, default=ROOT / "examples" / "data" / "catalog.parquet")
    speed.add_argument("--spaces", type=Path, default=ROOT / "feature_repo" / "spaces.toml")
    speed.add_argument("--space", default="moon_v2")
    speed.add_argument("--repeat", type=int, default=12)
    speed.add_argument("--rounds", type=int, default=3)
    scale = commands.add_parser("scale")
    scale.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    args = parser.parse_args()
    print(f"cores {len(os.sched_getaffinity(0))}, load average at start {os.getloadavg()[0]:.1f}\n")
    if args.what == "speed":
        compare(args)
    else:
        grow(args.items)


def compare(args):
    from jobs._spark import spark_session

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        catalog = repeated(args.catalog, work / "catalog.parquet", args.repeat)
        warm = repeated(args.catalog, work / "warm.parquet", 1, rows=cores * BATCH)
        count = pq.read_metadata(catalog).num_rows
        os.environ["MOONTIDE_SPACES_FILE"] = str(args.spaces)
        bare, ours, whole = [], [], []
        with spark_session("benchmark", f"local[{cores}]"):
            backfill(work / "home-warm", warm, args)
            for number in range(args.rounds):
                bare.append(count / bare_loop(catalog, args, cores))
                start = time.monotonic()
                ours.append(backfill(work / f"home-{number}", catalog, args))
                whole.append(count / (time.monotonic() - start))
        print(f"{count:,} items, {cores} cores, batches of {BATCH}, median of {args.rounds} interleaved rounds\n")
        print("| | items/s | of the bare loop |\n|---|---|---|")
        base = statistics.median(bare)
        for name, values in (
            ("bare ONNX Runtime loop", bare),
            ("backfill, to offline Parquet", ours),
            ("backfill, online store and index too", whole),
        ):
            rate = statistics.median(values)
            print(f"| {name} | {rate:,.0f} ({min(values):,.0f} to {max(values):,.0f}) | {rate / base:.2f} |")
        print(f"\nload average at end {os.getloadavg()[0]:.1f}")


def repeated(source, target, times, rows=None):
    """The catalog several times over under ids of its own, in row groups small enough for every core."""
    table = pq.read_table(source)
    table = table if rows is None else table.slice(0, rows)
    at = table.schema.get_field_index("item_id")
    parts = [table.set_column(at, "item_id", pa.array([f"{i}.{n}" for i in table["item_id"].to_pylist()])) for n in range(times)]
    pq.write_table(pa.concat_tables(parts), target, row_group_size=1_000)
    return target


def backfill(home, catalog, args):
    """Runs the program; its own figure for the encoding phase, in items/s."""
    from jobs import backfill_embeddings

    flags = ["--home", str(home), "--catalog", str(catalog), "--space", args.space, "--batch-size", str(BATCH)]
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        code = backfill_embeddings.main([*flags, "--image-root", str(args.catalog.parent)])
    if code not in (0, 3):
        raise SystemExit(printed.getvalue())
    return float(ENCODED.findall(printed.getvalue())[-1].replace(",", ""))


def bare_loop(catalog, args, cores):
    """Seconds of the loop itself; sessions are made before the clock starts."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(cores + 1), context.Barrier(cores + 1)
    workers = [context.Process(target=encode_share, args=(catalog, args, n, cores, ready, go)) for n in range(cores)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.monotonic()
    go.wait()
    for worker in workers:
        worker.join()
    return time.monotonic() - start


def encode_share(catalog, args, number, cores, ready, go):
    from encoders import Encoder, ImageLoader
    from jobs._rows import items_of
    from moontide.live import load_spaces

    encoder = Encoder.load(load_spaces(args.spaces).live(args.space).artifact, threads=1, images=ImageLoader(args.catalog.parent))
    table = pq.read_table(catalog)
    for name in ("title", "description", "attributes", "image", "image_bytes"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    batches = table.to_batches(max_chunksize=BATCH)[number::cores]
    items = [items_of(b) for b in batches]
    ready.wait()
    go.wait()
    for batch in items:
        encoder.encode_or_reject(batch)


def grow(sizes):
    print("| items | seconds | items/s | driver MB | JVM MB | largest Python worker MB |\n|---|---|---|---|---|---|")
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            (home / "spaces.toml").write_text(f'[[space]]\nname = "stub"\nversion = 1\ndim = {DIM}\n')
            synthetic(home / "catalog.parquet", count)
            seconds, samples = watched(home)
        peaks = [[max(s[kind] for s in part) / 2**20 for part in quarters(samples)] for kind in ("driver", "jvm", "worker")]
        driver, jvm, worker = (" / ".join(f"{v:,.0f}" for v in p) for p in peaks)
        print(f"| {count:,} | {seconds:,.0f} | {count / seconds:,.0f} | {driver} | {jvm} | {worker} |", flush=True)
    print("\nMemory: the peak within each quarter of the run, in order.")


def quarters(samples):
    """The samples in four parts."""
    step = max(1, -(-len(samples) // 4))
    parts = [samples[n : n + step] for n in range(0, len(samples), step)]
    return parts + [parts[-1]] * (4 - len(parts))


def synthetic(path, count):
    schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("price", pa.float64()), ("category", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 50_000):
            rows = range(start, min(start + 50_000, count))
            columns = [
                [f"item-{n:09d}" for n in rows],
                [f"plain product title number {n} in some words" for n in rows],
                [n / 100 for n in rows],
                [f"category {n % 97}" for n in rows],
            ]
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema))


def watched(home):
    """Seconds of a whole run in a process of its own, and its memory once a second."""
    flags = ["--home", str(home), "--catalog", str(home / "catalog.parquet"), "--space", "stub_v1", "--skip-index"]
    flags += ["--encoder", f"stub:{DIM}", "--snapshot-time", "2026-01-01T00:00:00Z", "--master", "local[2]"]
    start = time.monotonic()
    with (home / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "jobs.backfill_embeddings", *flags], stdout=log, stderr=log, cwd=ROOT)
        samples, stop = [], threading.Event()
        sampler = threading.Thread(target=sample, args=(run.pid, samples, stop))
        sampler.start()
        code = run.wait()
        seconds = time.monotonic() - start
        stop.set()
        sampler.join()
    if code:
        raise SystemExit((home / "log").read_text())
    sys.stderr.write((home / "log").read_text())
    return seconds, samples


def sample(root, samples, stop):
    while not stop.wait(1.0):
        found = {"driver": 0, "jvm": 0, "worker": 0}
        for pid, name in processes(root):
            kind = "driver" if pid == root else "jvm" if name == "java" else "worker"
            found[kind] = max(found[kind], kilobytes(pid, "RssAnon") * 1_024)
        samples.append(found)


def processes(root):
    """(pid, name) of `root` and all below it."""
    every = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name, rest = (entry / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
                every[int(entry.name)] = (int(rest.split()[1]), name)
    for pid, (_, name) in every.items():
        at = pid
        while at not in (0, 1, root):
            at = every.get(at, (0, ""))[0]
        if at == root:
            yield pid, name


if __name__ == "__main__":
    main()
