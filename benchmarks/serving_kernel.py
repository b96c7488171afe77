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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks._report import interleave, machine, ratio_interval, table
from moontide import Embeddings, EmbeddingSpace
from moontide.native import Library, library_path
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.tier_kernel import Side, count_with_numpy

TIERS: Final = 20
#: Share of the pairs that float arithmetic may put into the next tier.
MOVED: Final = 1e-5
FLOOR: Final = "floor: NumKong int8 product alone, packed before"
#: Values in a temporary of MUSE's formulation above which the cell is left out.
_MUSE_VALUES: Final = 70_000_000
#: Threads of numpy's and torch's libraries are counted when they are imported.
_ONE_THREAD: Final = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NK")}

Counts = np.ndarray
Cell = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """C candidates, L behaviours, D dims."""

    candidates: int
    behaviours: int
    dim: int

    @property
    def pairs(self) -> int:
        return self.candidates * self.behaviours

    def __str__(self) -> str:
        return f"{self.candidates:,} x {self.behaviours:,} x {self.dim}"


SHAPES: Final = (Shape(1_000, 1_000, 64), Shape(500, 1_000, 128), Shape(100, 50, 64), Shape(200, 10_000, 128))
SMALL: Final = (Shape(7, 70, 64), Shape(5, 20, 128))


@dataclass(frozen=True)
class World:
    """One request: vectors around 50 centres, so that the cosines fill most tiers."""

    shape: Shape
    candidates: Embeddings
    history: Embeddings

    @classmethod
    def make(cls, shape: Shape, *, seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(50, shape.dim))
        space = EmbeddingSpace("bench", 1, shape.dim)

        def side(rows: int) -> Embeddings:
            values = 1.5 * centres[rng.integers(0, 50, rows)] + rng.normal(size=(rows, shape.dim))
            return Embeddings.from_float(space, values.astype(np.float32))

        return cls(shape, side(shape.candidates), side(shape.behaviours))

    def sides(self) -> tuple[Side, Side]:
        """As the kernels take them."""
        both = (self.candidates, self.history)
        left, right = (
            Side(e.codes, e.inv_norm, e.present, np.arange(len(e)), np.array([0, len(e)], np.int64), None) for e in both
        )
        return left, right

    def units(self) -> tuple[np.ndarray, np.ndarray]:
        """The same directions as unit float32 vectors, as float systems hold them."""
        left, right = (e.codes.astype(np.float32) * e.inv_norm[:, None] for e in (self.candidates, self.history))
        return left, right


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


def binned(scores: np.ndarray) -> Counts:
    """(C, N) counts of (C, L) cosines, which are written over: one `bincount` over all rows."""
    scores *= TIERS // 2
    np.ceil(scores, out=scores)
    tiers = np.clip(scores.astype(np.int32) + (TIERS // 2 - 1), 0, TIERS - 1)
    tiers += (np.arange(len(scores), dtype=np.int32) * TIERS)[:, None]
    return np.bincount(tiers.ravel(), minlength=len(scores) * TIERS).reshape(-1, TIERS)


def numpy_cell(world: World) -> Cell:
    """What one writes in numpy."""
    left, right = world.units()
    return lambda: binned(left @ right.T)


def numkong_product(world: World) -> Callable[[], np.ndarray]:
    """(C, L) int32 dots by a well-kept int8 matrix product; the behaviours are packed in the call."""
    import numkong

    left, right = world.candidates.codes, world.history.codes
    return lambda: np.asarray(numkong.dots_packed(left, numkong.dots_pack(right)))


def numkong_cell(world: World) -> Cell:
    """The int8 product, then scale and `bincount`: exact too, in the order of the definition."""
    dots = numkong_product(world)
    left, right = world.candidates.inv_norm[:, None], world.history.inv_norm[None, :]

    def run() -> Counts:
        scores = dots().astype(np.float32)
        scores *= left
        scores *= right
        return binned(scores)

    return run


def floor_cell(world: World) -> Cell:
    """The products alone, into memory that is there, of behaviours packed before: no scale, no tiers, no counts."""
    import numkong

    left, packed = world.candidates.codes, numkong.dots_pack(world.history.codes)
    out = numkong.dots_packed(left, packed)
    return lambda: numkong.dots_packed(left, packed, out=out)


def torch_cells(world: World) -> dict[str, Cell]:
    """What one writes in torch, and the formulation of MUSE's released code.

    MUSE (arXiv 2512.07216, `model/base_model/simtier.py`): cosine by normalised products summed over the dims, ids
    ``ceil(cos * 10) + 10``, each id compared with all 22 bins, sums over time. Here the history is broadcast, where the released
    code copies it for every candidate first.
    """
    import torch

    torch.set_num_threads(1)
    left, right = map(torch.from_numpy, world.units())
    bins = torch.arange(0, TIERS + 2).reshape(1, -1, 1)

    def bincount() -> Counts:
        ids = torch.ceil_(torch.mm(left, right.T).mul_(TIERS // 2)).to(torch.int32).add_(TIERS // 2 - 1).clamp_(0, TIERS - 1)
        ids += torch.arange(len(left), dtype=torch.int32)[:, None] * TIERS
        return torch.bincount(ids.view(-1), minlength=len(left) * TIERS).view(-1, TIERS).numpy()

    def muse() -> Counts:
        normal = torch.nn.functional.normalize
        cosine = (normal(left[:, None, :], dim=2) * normal(right[None], dim=2)).sum(dim=2)
        ids = torch.ceil(cosine * (TIERS // 2)).to(torch.int32) + TIERS // 2
        times = (bins == ids[:, None, :]).type(torch.float32).sum(dim=2).numpy()
        folded = times[:, 1:-1].copy()
        folded[:, 0] += times[:, 0]
        folded[:, -1] += times[:, -1]
        return folded

    cells: dict[str, Cell] = {"torch matmul + bincount": bincount}
    if world.shape.pairs * max(world.shape.dim, TIERS + 2) <= _MUSE_VALUES:
        cells["MUSE, released formulation (torch)"] = muse
    return cells


def peer_cells(world: World) -> dict[str, Cell]:
    """Every peer."""
    return {
        "NumKong int8 product + bincount": numkong_cell(world),
        "numpy matmul + bincount": numpy_cell(world),
        **torch_cells(world),
    }


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
    """Rows of the report for one shape."""
    world = World.make(shape)
    ours, peers = our_cells(world), peer_cells(world)
    moved = check(shape, ours | peers, oracle(world))
    cells = {**ours, **peers, FLOOR: floor_cell(world)}
    few = {name: calls if name == FLOOR or name in list(ours)[:2] else max(1, calls // 8) for name in cells}
    times = interleave(cells, rounds=rounds, calls=few, seconds=40)
    best, floor = times[next(iter(ours))], statistics.median(times[FLOOR])
    rows: list[list[object]] = []
    for name, taken in times.items():
        middle = statistics.median(taken)
        ratio, low, high = ratio_interval(taken, best)
        faster = "" if taken is best else f"{ratio:.1f}x [{low:.1f}, {high:.1f}]"
        share = f"{moved[name]:.0e}" if moved.get(name) else "0" if name in moved else ""
        least = min(taken)
        row = [str(shape), name, f"{middle * 1e3:.3f}", f"{least * 1e3:.3f}", f"{shape.pairs / middle / 1e9:.3f}"]
        rows.append([*row, f"{100 * floor / middle:.0f} %", faster, share])
    return rows


def report(shapes: Sequence[Shape], rounds: int, calls: int) -> str:
    """The table, with the machine above it."""
    head = ["candidates x behaviours x dims", "system", "median ms", "min ms", "Gpair/s", "of the floor"]
    rows = [row for shape in shapes for row in measure(shape, rounds, calls)]
    return f"{machine()}, one thread.\n\n" + table([*head, "moontide is faster by", "pairs in another tier"], rows)


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
