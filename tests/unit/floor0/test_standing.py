"""What becomes of a row, against a one-row-at-a-time oracle."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.standing import Step, checked, first_steps, standing

pytestmark = pytest.mark.unit
small = st.integers(0, 3)
heads = st.none() | st.tuples(small, small, st.booleans())
rows = st.tuples(small, small, st.booleans(), st.booleans(), heads)


def plan(cases):
    version, event, deleted = (np.array([c[n] for c in cases]) for n in range(3))
    head = [(None, None, None) if c[4] is None else c[4] for c in cases]
    columns = [pa.array([h[n] for h in head], kind) for n, kind in enumerate((pa.int64(), pa.int64(), pa.bool_()))]
    at = standing(version.astype(np.int64), event.astype(np.int64), columns[0], columns[1])
    steps = first_steps(at, deleted.astype(bool), columns[2])
    for row in np.flatnonzero(steps == Step.CHECK):
        steps[row] = checked(at, int(row), same_content=cases[row][3])
    return at, steps


def oracle(version, event, deleted, same_content, head):
    """The step, and the event time written."""
    if head is None:
        return (Step.TOMBSTONE if deleted else Step.ENCODE), event
    old_version, old_event, gone = head
    if version < old_version:
        return Step.STALE, event
    raised = old_event + 1 if version > old_version and event <= old_event else event
    above = (version, raised) > (old_version, old_event)
    equal = (version, event) == (old_version, old_event)
    if deleted:
        return (Step.TOMBSTONE if above or (equal and not gone) else Step.UNCHANGED), raised
    if gone:
        return (Step.ENCODE if above or equal else Step.STALE), raised
    if same_content:
        return (Step.REUSE if above else Step.UNCHANGED), raised
    return (Step.ENCODE if above or equal else Step.STALE), raised


@settings(deadline=None)
@given(st.lists(rows, max_size=12))
def test_steps_equal_the_oracle(cases):
    at, steps = plan(cases)
    expected = [oracle(*case) for case in cases]
    assert [Step(s) for s in steps] == [step for step, _ in expected]
    written = [
        (t, e) for t, (s, e) in zip(at.event_us.tolist(), expected, strict=True) if s in (Step.ENCODE, Step.REUSE, Step.TOMBSTONE)
    ]
    assert all(t == e for t, e in written)


@settings(deadline=None)
@given(st.lists(rows.filter(lambda r: r[4] is not None), max_size=12))
def test_what_is_written_is_never_below_its_head(cases):
    at, steps = plan(cases)
    for case, event, step in zip(cases, at.event_us.tolist(), steps.tolist(), strict=True):
        if step in (Step.ENCODE, Step.REUSE, Step.TOMBSTONE):
            assert (case[0], event) >= case[4][:2]


@settings(deadline=None)
@given(st.lists(rows, max_size=12))
def test_planning_again_after_everything_was_written_changes_nothing(cases):
    """The state a killed job leaves is the one the next run starts from."""
    at, steps = plan(cases)
    wrote = {Step.ENCODE, Step.REUSE, Step.TOMBSTONE}
    again = [
        (c[0], c[1], c[2], True, (c[0], int(t), c[2])) if Step(s) in wrote else c
        for c, t, s in zip(cases, at.event_us, steps, strict=True)
    ]
    done = plan(again)[1]
    assert {Step(s) for s in done} <= {Step.UNCHANGED, Step.STALE}
