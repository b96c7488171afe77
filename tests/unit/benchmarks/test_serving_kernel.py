"""The kernel's benchmark at a size where it takes no time: every system gives the counts of the definition."""

import numpy as np
import pytest

from benchmarks import serving_kernel
from benchmarks._kernel_peers import TIERS, Shape, World, numkong_product, peer_cells
from benchmarks.serving_kernel import check, measure, oracle, our_cells
from moontide.simtier import SimTierSpec, reference_tier_counts

pytestmark = pytest.mark.unit
SHAPE = Shape(6, 40, 64)


def test_every_system_gives_the_counts_of_the_definition():
    world = World.make(SHAPE)
    spec = SimTierSpec("bench_v1", TIERS, 40, self_match="keep")
    wanted = reference_tier_counts(world.candidates, world.history, spec).counts
    assert np.array_equal(oracle(world), wanted)
    cells = our_cells(world) | peer_cells(world)
    assert len(cells) >= 5 and "moontide, numpy" in cells
    for name, cell in cells.items():
        assert np.array_equal(cell(), wanted), name
    dots = world.candidates.codes.astype(int) @ world.history.codes.astype(int).T
    assert np.array_equal(np.asarray(numkong_product(world)()), dots)


def test_a_system_that_counts_otherwise_stops_the_run():
    wanted = oracle(World.make(SHAPE))
    moved = wanted.copy()
    moved[0, np.flatnonzero(wanted[0])[0]] -= 1
    moved[0, 0 if wanted[0, 0] == 0 else 1] += 1
    assert check(SHAPE, {"moontide, numpy": lambda: wanted}, wanted) == {"moontide, numpy": 0.0}
    assert check(SHAPE, {"peer": lambda: moved}, wanted)["peer"] == pytest.approx(1 / SHAPE.pairs)
    for name, counts in (("moontide, numpy", moved), ("peer", np.roll(wanted, 3, axis=1)), ("peer", 2 * wanted)):
        with pytest.raises(SystemExit, match="nothing was timed"):
            check(SHAPE, {name: lambda c=counts: c}, wanted)


def test_formulations_that_need_gigabytes_are_left_out(monkeypatch):
    monkeypatch.setattr("benchmarks._kernel_peers._MUSE_VALUES", 100)
    assert not [name for name in peer_cells(World.make(SHAPE)) if name.startswith("MUSE")]


def test_a_row_for_each_system_and_the_floor():
    rows = measure(SHAPE, 1, 1)
    assert rows[-1][1] == serving_kernel.FLOOR and len({len(row) for row in rows}) == 1
