"""SimTier in bulk, item ids to counts: `tier_counts_at` beside DuckDB's and Spark's vector functions on the same pairs.

Every system must give the same counts before anything is timed, but for pairs on the edge of a tier: the peers' cosine is of
float vectors. Run: ``python -m benchmarks.simtier [--small] [--rounds 7] [--threads 2]``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks._report import interleave, machine, ratio_interval, table
from moontide import Embeddings, EmbeddingSpace
from moontide.simtier import SimTierSpec, tier_counts_at

DIM, TIERS = 128, 20
SPACE = EmbeddingSpace("bench", 1, DIM)
#: Share of the pairs that float arithmetic may put into the next tier.
MOVED = 3e-5
_TIER = "least(greatest(CAST(ceil({cosine} * 10) AS INT) + 9, 0), 19)"
_PAIRS = """SELECT c.place, {tier} AS tier, count(*) AS pairs
FROM candidates c JOIN history h ON c.request = h.request AND c.item <> h.item
JOIN items a ON a.item = c.item JOIN items b ON b.item = h.item GROUP BY 1, 2"""
#: Spark 4's vector functions are the native ones; the other is what people write without them.
SPARK_NATIVE = _TIER.format(cosine="vector_cosine_similarity(a.vector, b.vector)")


@dataclass(frozen=True)
class Shape:
    """So many requests of so many candidates and behaviours."""

    requests: int
    candidates: int
    behaviours: int

    @property
    def pairs(self) -> int:
        return self.requests * self.candidates * self.behaviours

    def __str__(self) -> str:
        return f"{self.requests:,} x {self.candidates} x {self.behaviours:,}"


SHAPES = (Shape(20_000, 5, 50), Shape(2_000, 50, 50), Shape(10, 500, 1_000))
SMALL = (Shape(40, 5, 10), Shape(2, 20, 30))


@dataclass(frozen=True)
class World:
    """Vectors of items under arbitrary ids, and the ids of candidates and behaviours, requests end to end."""

    vectors: Embeddings
    items: np.ndarray
    candidates: np.ndarray
    history: np.ndarray
    shape: Shape

    @classmethod
    def make(cls, shape: Shape, items: int, *, seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(50, DIM))
        values = centres[rng.integers(0, 50, items)] + rng.normal(size=(items, DIM))
        ids = rng.permutation(10 * items)[:items]
        vectors = Embeddings.from_float(SPACE, values.astype(np.float32))
        drawn = [rng.choice(ids, shape.requests * width) for width in (shape.candidates, shape.behaviours)]
        return cls(vectors, ids, *drawn, shape)

    def tables(self) -> dict[str, pa.Table]:
        """The same as tables."""
        flat = pa.array(self.vectors.to_float().ravel())
        places = np.arange(len(self.candidates))
        return {
            "items": pa.table({"item": self.items, "vector": pa.FixedSizeListArray.from_arrays(flat, DIM)}),
            "candidates": pa.table({"place": places, "request": places // self.shape.candidates, "item": self.candidates}),
            "history": pa.table({"request": np.arange(len(self.history)) // self.shape.behaviours, "item": self.history}),
        }


def ours(world: World, threads: int) -> np.ndarray:
    """(candidates, N) counts."""
    known = pa.array(world.items)
    rows = [pc.index_in(pa.array(ids), value_set=known).to_numpy() for ids in (world.candidates, world.history)]
    offsets = [np.arange(world.shape.requests + 1) * width for width in (world.shape.candidates, world.shape.behaviours)]
    spec = SimTierSpec(SPACE.id, TIERS, world.shape.behaviours)
    keys = {"candidate_keys": world.candidates, "history_keys": world.history}
    return tier_counts_at(world.vectors, rows[0], offsets[0], rows[1], offsets[1], spec, **keys, threads=threads).counts


def counts_of(found: pa.Table, candidates: int) -> np.ndarray:
    """(candidates, N) counts from (place, tier, pairs)."""
    counts = np.zeros((candidates, TIERS), np.int64)
    counts[found["place"].to_numpy(), found["tier"].to_numpy()] = found["pairs"].to_numpy()
    return counts


def duckdb_cell(world: World, threads: int) -> Callable[[], np.ndarray]:
    """`array_cosine_similarity` and GROUP BY over tables of DuckDB's own."""
    import duckdb

    session = duckdb.connect()
    session.execute(f"SET threads = {threads}; SET preserve_insertion_order = false")
    for name, rows in world.tables().items():
        session.register("arrow_rows", rows)
        session.execute(f"CREATE TABLE {name} AS SELECT * FROM arrow_rows")
    text = _PAIRS.format(tier=_TIER.format(cosine="array_cosine_similarity(a.vector, b.vector)"))
    return lambda: counts_of(session.sql(text).to_arrow_table(), len(world.candidates))


def spark_cell(world: World, threads: int, folder: Path) -> Callable[[], np.ndarray]:
    """Spark's native vector function and GROUP BY over cached tables."""
    from pyspark.sql import SparkSession

    conf = {"spark.master": f"local[{threads}]", "spark.driver.memory": "3g", "spark.ui.enabled": "false"}
    # Items to every task: else the vectors of every pair are shuffled.
    conf |= {"spark.ui.showConsoleProgress": "false", "spark.sql.autoBroadcastJoinThreshold": str(1 << 28)}
    conf |= {"spark.sql.shuffle.partitions": str(2 * threads), "spark.sql.execution.arrow.pyspark.enabled": "true"}
    builder = SparkSession.builder
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    for name, rows in world.tables().items():
        path = str(folder / f"{name}.parquet")
        pq.write_table(rows, path)
        frame = spark.read.parquet(path)
        spark.catalog.dropTempView(name)
        frame.repartition(2 * threads).cache().createOrReplaceTempView(name)
        spark.table(name).count()
    text = _PAIRS.format(tier=SPARK_NATIVE)
    return lambda: counts_of(spark.sql(text).toArrow(), len(world.candidates))


def blas_alone(world: World) -> Callable[[], object]:
    """The floor: the same dot products by one thread of BLAS over float32 vectors gathered before; no ids, tiers or counts."""
    rng = np.random.default_rng(0)
    left, right = (
        rng.random((world.shape.requests, width, DIM), np.float32) for width in (world.shape.candidates, world.shape.behaviours)
    )
    step = max(1, (1 << 18) // (world.shape.candidates * world.shape.behaviours))

    def run() -> None:
        for at in range(0, world.shape.requests, step):
            np.matmul(left[at : at + step], right[at : at + step].swapaxes(-1, -2))

    return run


def check(world: World, cells: dict[str, Callable[[], np.ndarray]]) -> None:
    """Stops where a system's counts are not ours, but for pairs at an edge."""
    expected = cells["moontide"]()
    for name, cell in cells.items():
        moved = np.abs(cell() - expected).sum() / 2
        total = int(cell().sum()) if name != "moontide" else int(expected.sum())
        share = moved / world.shape.pairs
        print(f"{world.shape}, {name}: {total:,} pairs, {moved:.0f} of them in another tier ({share:.1e})", flush=True)
        if share > MOVED or total != expected.sum():
            raise SystemExit("nothing was timed")


def measure(world: World, folder: Path, rounds: int, threads: int, *, spark: bool) -> list[list[object]]:
    """Rows of the report for one shape."""
    cells = {"moontide": partial(ours, world, threads), "moontide, 1 thread": partial(ours, world, 1)}
    cells["DuckDB array_cosine_similarity"] = duckdb_cell(world, threads)
    if spark:
        cells["Spark vector_cosine_similarity"] = spark_cell(world, threads, folder)
    check(world, cells)
    timed = cells | {"floor: BLAS products alone, 1 thread": blas_alone(world)}
    slow = [name for name in timed if name.startswith("Spark")]
    fast = {name: cell for name, cell in timed.items() if name not in slow}
    times = interleave(fast, rounds=rounds, calls=dict.fromkeys(fast, 1), seconds=45)
    for name in slow:
        times |= interleave({name: timed[name]}, rounds=2, calls={name: 1})
    rows = []
    for name, taken in times.items():
        middle = statistics.median(taken)
        ratio, low, high = ratio_interval(taken, times["moontide"])
        spread, factor = f"{min(taken) * 1e3:,.0f} to {max(taken) * 1e3:,.0f}", f"{ratio:.1f}x [{low:.1f}, {high:.1f}]"
        speed = f"{world.shape.pairs / middle / 1e6:,.1f}"
        rows.append([str(world.shape), name, f"{middle * 1e3:,.0f}", spread, speed, "" if name == "moontide" else factor])
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few thousand pairs: to see that it works")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-spark", action="store_true")
    flags = parser.parse_args(arguments)
    if arguments is None and os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        # numpy reads it when it is imported; moontide's threads are the only ones.
        command = [sys.executable, "-m", "benchmarks.simtier", *sys.argv[1:]]
        return subprocess.run(
            command, env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}, check=False
        ).returncode
    print(machine(), f"{flags.threads} threads, {flags.items:,} items, {DIM} dimensions", flush=True)
    rows: list[list[object]] = []
    for shape in SMALL if flags.small else SHAPES:
        world = World.make(shape, 500 if flags.small else flags.items)
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(world, Path(folder), flags.rounds, flags.threads, spark=not flags.without_spark)
            print("\n".join(map(str, rows[-4:])), flush=True)
    head = ["requests x candidates x behaviours", "system", "median ms", "min to max", "million pairs/s", "moontide is faster by"]
    print("\n" + table(head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
