"""The SimTier kernel of one request beside what others run: vectors in memory to counts of 20 tiers, one thread.

Every system's counts are compared with the oracle's before anything is timed: ours must be equal; of float systems the share of
pairs that moved to another tier is printed. Run: ``python -m benchmarks.serving_kernel [--small] [--rounds 7]``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks._kernel_peers import TIERS, Cell, Counts, Shape, World, numkong_product, peer_cells
from benchmarks._report import interleave, machine, ratio_interval, table
from moontide.native import Library, library_path
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.tier_kernel import count_with_numpy

#: Share of the pairs that float arithmetic may put into the next tier.
MOVED: Final = 1e-5
PRODUCT: Final = "NumKong int8 product alone, no tiers"
DOUBLE: Final = "twice the dims"
FLOOR: Final = "floor: the fastest level's own product"
#: Threads of numpy's and torch's libraries are counted when they are imported.
_ONE_THREAD: Final = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NK")}

SHAPES: Final = (Shape(1_000, 1_000, 64), Shape(500, 1_000, 128), Shape(100, 50, 64), Shape(200, 10_000, 128))
SMALL: Final = (Shape(7, 70, 64), Shape(5, 20, 128))


def oracle(world: World) -> Counts:
    """(C, N) counts by numpy, itself compared with the definition on the first candidates."""
    counts = count_with_numpy(*world.sides(), TIERS, 1)[0]
    few = world.candidates.take(slice(0, 2))
    spec = SimTierSpec(world.candidates.space.id, TIERS, world.shape.behaviours, self_match="keep")
    if not np.array_equal(reference_tier_counts(few, world.history, spec).counts, counts[:2]):
        raise SystemExit("the oracle is wrong")
    return counts


def our_cells(world: World) -> dict[str, Cell]:
    """Ours, by every level that this processor has, fastest first."""
    left, right = world.sides()
    path = library_path()
    library = Library(path) if path else None
    kernels = {level: library.kernel(level) for level in library.levels()} if library else {}
    kernels["numpy"] = count_with_numpy
    return {f"moontide, {name}": (lambda k=kernel: k(left, right, TIERS, 1)[0]) for name, kernel in kernels.items()}


def check(shape: Shape, cells: Mapping[str, Cell], wanted: Counts) -> dict[str, float]:
    """Share of pairs in another tier, by system.

    Raises:
        SystemExit: ours is not equal, a peer moves more than a few pairs, or counts another number of them.
    """
    moved = {}
    for name, cell in cells.items():
        counts = np.asarray(cell())
        moved[name] = float(np.abs(counts - wanted).sum()) / 2 / shape.pairs
        few = max(MOVED, 2 / shape.pairs)
        if moved[name] > (0 if name.startswith("moontide") else few) or int(counts.sum()) != shape.pairs:
            raise SystemExit(f"{shape}, {name}: {moved[name]:.1e} of the pairs are in another tier; nothing was timed")
    return moved


def measure(shape: Shape, rounds: int, calls: int) -> list[list[object]]:
    """Rows of the report for one shape.

    The floor is what the product costs the fastest level: its time for twice the dims less its time for these, since nothing else
    in it depends on them but the packing.
    """
    world, double = World.make(shape), World.make(Shape(shape.candidates, shape.behaviours, 2 * shape.dim))
    ours, peers = our_cells(world), peer_cells(world)
    first = next(iter(ours))
    moved = check(shape, ours | peers, oracle(world))
    cells = {**ours, DOUBLE: our_cells(double)[first], **peers, PRODUCT: numkong_product(world)}
    often = {first, DOUBLE, PRODUCT}
    times = interleave(cells, rounds=rounds, calls={n: calls if n in often else max(1, calls // 8) for n in cells}, seconds=40)
    floor = max(min(times.pop(DOUBLE)) - min(times[first]), 1e-9)
    rows: list[list[object]] = []
    for name, taken in times.items():
        least, middle = min(taken), statistics.median(taken)
        ratio, low, high = ratio_interval(taken, times[first])
        faster = ["", ""] if name == first else [f"{ratio:.1f}x [{low:.1f}, {high:.1f}]", f"{least / min(times[first]):.1f}x"]
        share = "" if name not in moved else f"{moved[name]:.0e}" if moved[name] else "0"
        speed = f"{shape.pairs / least / 1e9:.3f}"
        row = [str(shape), name, f"{middle * 1e3:.3f}", f"{least * 1e3:.3f}", speed]
        rows.append([*row, f"{100 * floor / least:.0f} %", *faster, share])
    return [*rows, [str(shape), FLOOR, "", f"{floor * 1e3:.3f}", f"{shape.pairs / floor / 1e9:.3f}", "100 %", "", "", ""]]


def report(shapes: Sequence[Shape], rounds: int, calls: int) -> str:
    """The table, with the machine above it."""
    head = ["candidates x behaviours x dims", "system", "median ms", "min ms", "Gpair/s at min", "of the floor"]
    rows = [row for shape in shapes for row in measure(shape, rounds, calls)]
    head += ["the first line is faster by (medians)", "by minima", "pairs in another tier"]
    said = "One thread. On a busy machine calls of more than a few milliseconds wait for their turn: compare the minima then."
    return f"{machine()}. {said}\n\n" + table(head, rows)


def section(*, small: bool = False, rounds: int = 7) -> str:
    """The report, made by a process of its own: libraries take their number of threads when they are imported."""
    command = [sys.executable, "-m", "benchmarks.serving_kernel", "--rounds", str(rounds), *(["--small"] if small else [])]
    done = subprocess.run(command, env=os.environ | _ONE_THREAD, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few hundred pairs: to see that it works")
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args(arguments)
    if arguments is None and any(os.environ.get(name) != "1" for name in _ONE_THREAD):
        print(section(small=flags.small, rounds=flags.rounds))
    else:
        print(report(SMALL if flags.small else SHAPES, flags.rounds, 2 if flags.small else 24))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
