"""The SimTier benchmark at a size where it takes no time: both sides give the counts of the definition."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import simtier
from benchmarks.simtier import SPACE, TIERS, Shape, World, blas_alone, counts_of, duckdb_cell, ours
from moontide.simtier import SimTierSpec, reference_tier_counts

pytestmark = pytest.mark.unit


def by_definition(world):
    row = {int(item): at for at, item in enumerate(world.items)}
    spec = SimTierSpec(SPACE.id, TIERS, world.shape.behaviours)
    parts = []
    for request in range(world.shape.requests):
        sides = []
        for ids, width in ((world.candidates, world.shape.candidates), (world.history, world.shape.behaviours)):
            mine = ids[request * width : (request + 1) * width]
            sides.append(world.vectors.take(np.array([row[int(i)] for i in mine])).with_ids([str(i) for i in mine]))
        parts.append(reference_tier_counts(*sides, spec).counts)
    return np.concatenate(parts)


def test_both_sides_give_the_counts_of_the_definition():
    world = World.make(Shape(4, 3, 9), 12)
    wanted = by_definition(world)
    assert wanted.sum() < world.shape.pairs  # some behaviour is on the candidate itself
    assert np.array_equal(ours(world, 1), wanted)
    assert np.array_equal(duckdb_cell(world, 1)(), wanted)
    blas_alone(world)()


def test_nothing_is_timed_after_other_counts():
    world = World.make(Shape(2, 2, 5), 50)
    with pytest.raises(SystemExit, match="nothing was timed"):
        simtier.check(world, {"moontide": lambda: ours(world, 1), "other": lambda: np.roll(ours(world, 1), 1, axis=1)})


def test_counts_of_rows():
    found = counts_of(pa.table({"place": [1, 0], "tier": [19, 0], "pairs": [3, 2]}), 2)
    assert found[1, 19] == 3 and found[0, 0] == 2 and found.sum() == 5
