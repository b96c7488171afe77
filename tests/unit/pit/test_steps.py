"""Rows of a log by entity and time, whichever way they are sorted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.pit.steps import _sorted

pytestmark = pytest.mark.unit


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=40),
    in_order=st.booleans(),
    offset=st.sampled_from([0, 1 << 20, 1 << 60]),
)
def test_by_entity_then_time_then_row(rows, in_order, offset):
    entities = np.array([entity + offset for entity, _ in rows], np.int64)
    times = np.array([time for _, time in rows], np.int64)
    times = np.sort(times) if in_order else times
    wanted = sorted(range(len(rows)), key=lambda row: (entities[row], times[row], row))
    got = _sorted(entities, times)
    assert got.tolist() == wanted and got.dtype == np.int64
