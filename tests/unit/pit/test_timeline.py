"""Counting strictly before a moment, against a loop over every event; and the same from arrays on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.errors import Misconfigured
from moontide.pit.arrays import open_arrays, save_arrays
from moontide.pit.spans import bisect, indices
from moontide.pit.timeline import Timeline

pytestmark = pytest.mark.unit
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3)), max_size=30)
QUERIES = st.lists(st.tuples(st.integers(-2, 6), st.integers(-1, 11)), max_size=12)


def columns(rows, width):
    return tuple(np.array([row[at] for row in rows], np.int64) for at in range(width))


@given(EVENTS, QUERIES, st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_slices_and_counts_are_those_of_a_loop(events, queries, within):
    entity, time, value = columns(events, 3)
    lines = Timeline(entity, time, value)
    asked, at = columns(queries, 2)
    first, stop = lines.first(asked), lines.before(asked, at)
    for row, (who, now) in enumerate(queries):
        before = sorted((t, v) for e, t, v in events if e == who and t < now)
        assert [(int(lines.times[i]), int(lines.values[i])) for i in range(first[row], stop[row])] == before
        assert lines.count(asked, at)[row] == len(before)
        assert lines.count(asked, at, within=within)[row] == sum(t >= now - within for t, _ in before)
        assert lines.since_first(asked, at)[row] == (now - before[0][0] if before else 0)


def test_arrays_on_disk_answer_the_same(tmp_path):
    draw = np.random.default_rng(0)
    made = Timeline(draw.integers(0, 9, 20_000), draw.integers(0, 99, 20_000), draw.integers(0, 9, 20_000))
    save_arrays(tmp_path / "a", made.arrays(), {"seed": 0})
    arrays, meta = open_arrays(tmp_path / "a")
    again = Timeline.of_arrays(arrays)
    asked, at = draw.integers(0, 9, 50), draw.integers(0, 99, 50)
    assert meta == {"seed": 0}
    assert not arrays["times"].flags.writeable
    assert np.array_equal(again.before(asked, at), made.before(asked, at))
    with pytest.raises(Misconfigured, match="every machine"):
        open_arrays(tmp_path / "b")


@pytest.mark.parametrize("right", [False, True])
def test_bisect_in_spans_equals_searchsorted_in_each(right):
    draw = np.random.default_rng(1)
    sizes = np.concatenate([[0, 1], draw.integers(0, 40, 60)])
    parts = [np.sort(draw.integers(0, 15, size)) for size in sizes]
    values, stop = np.concatenate(parts), np.cumsum(sizes)
    wanted = draw.integers(-1, 17, len(sizes))
    got = bisect(values, stop - sizes, stop, wanted, right=right)
    side = "right" if right else "left"
    assert (got - (stop - sizes)).tolist() == [np.searchsorted(p, w, side) for p, w in zip(parts, wanted, strict=True)]
    assert indices(np.array([3, 5, 9]), np.array([5, 5, 11]))[0].tolist() == [3, 4, 9, 10]
