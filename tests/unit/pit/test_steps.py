"""Rows of a log by entity and time, however they lie, against a loop over the rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.pit.steps import Steps, _by_order, _minimum_ahead

pytestmark = pytest.mark.unit
#: entity, eligible, two columns of the write order, live
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3), st.integers(0, 1), st.booleans()), max_size=40)


def valid(rows, entity, now):
    """The row with the highest order that counts; of equal ones the one that counted first, then the first one."""
    best = None
    for at, (who, eligible, *order, _) in enumerate(rows):
        if who == entity and eligible <= now:
            key = (order, -eligible)
            if best is None or key > best[0]:
                best = (key, at)
    return -1 if best is None or not rows[best[1]][4] else best[1]


@settings(max_examples=200, deadline=None)
@given(
    rows=ROWS,
    in_order=st.booleans(),
    scale=st.sampled_from([1, 1 << 58]),
    shift=st.sampled_from([0, -5]),
    threads=st.integers(1, 3),
)
def test_the_valid_row_at_every_time(rows, in_order, scale, shift, threads):
    rows = sorted(rows, key=lambda row: row[2:4]) if in_order else rows
    # A row's place among equal ones does not change what they hold.
    rows = [(*row[:4], next(r for r in rows if r[0] == row[0] and r[2:4] == row[2:4])[4]) for row in rows]
    columns = [np.array([row[n] for row in rows], np.int64) for n in range(4)]
    live = np.array([row[4] for row in rows], bool)
    steps = Steps.of(columns[0], 6, (columns[1] + shift) * scale, columns[2:], live, threads=threads)
    asked = [(entity, now) for entity in range(6) for now in range(-1, 11)]
    entities, times = np.array(asked, np.int64).T
    assert steps.at(entities, (times + shift) * scale).tolist() == [valid(rows, *each) for each in asked]
    assert steps.at(np.full(3, -1), np.arange(3)).tolist() == [-1] * 3


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, offset=st.sampled_from([0, 1 << 60]))
def test_by_entity_then_order_each_order_once(rows, offset):
    entities, eligible, *order = (np.array([row[n] for row in rows], np.int64) for n in range(4))
    first = {}
    for at in sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][2:4], rows[at][1], at)):
        first.setdefault((rows[at][0], rows[at][2:4]), at)
    got, entity = _by_order(np.arange(len(rows)), entities + offset, eligible, order)
    assert (entity - offset).tolist() == [who for who, _ in first]
    assert got.tolist() == list(first.values()) and got.dtype == np.int64


@pytest.mark.parametrize("large", [0, 1 << 62])
def test_minimum_ahead_within_an_entity(large):
    entity, values = np.array([0, 0, 0, 2, 2, 3]), np.array([5, 1, 4, 3, 2, 9]) + large
    assert (_minimum_ahead(entity, values) - large).tolist() == [1, 1, 4, 2, 2, 9]
    assert _minimum_ahead(entity[:0], values[:0]).tolist() == []
