"""Behaviour rows: checks, and the streaming fold against a dict of sorted sets."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs._behaviours import FOLDED, ROWS, Fold, check
from moontide import schemas
from moontide.sequences import Behaviour, BehaviourSequence

pytestmark = pytest.mark.unit
NOW = 1_000_000_000
event = st.tuples(st.sampled_from("uvw"), st.integers(0, 6), st.sampled_from("ab"), st.sampled_from("xy"), st.booleans())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("u", "i", "buy", 5), None),
        (("u", "i", "x" * 64, NOW + 300_000_000), None),
        ((None, "i", "buy", 5), "invalid_id"),
        (("u", None, "buy", 5), "invalid_id"),
        (("u u", "i", "buy", 5), "invalid_id"),
        (("u", "i'", "buy", 5), "invalid_id"),
        (("u", "i", None, 5), "bad_action"),
        (("u", "i", "", 5), "bad_action"),
        (("u", "i", "x" * 65, 5), "bad_action"),
        (("u", "i", "buy", None), "no_event_time"),
        (("u", "i", "buy", NOW + 300_000_001), "event_time_out_of_range"),
        (("u", "i", "buy", -1), "event_time_out_of_range"),
    ],
)
def test_rows_are_checked(row, reason):
    columns = [pa.array([value], f.type) for value, f in zip(row, schemas.BEHAVIOURS, strict=True)]
    out = check(pa.RecordBatch.from_arrays(columns, names=schemas.BEHAVIOURS.names), NOW, source=3, first_row=9)
    assert out.schema == ROWS
    assert (out["reason"].to_pylist(), out["row"].to_pylist(), out["source"].to_pylist()) == ([reason], [9], [3])


def test_no_rows():
    empty = pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schemas.BEHAVIOURS], names=schemas.BEHAVIOURS.names)
    assert len(check(empty, NOW, source=0, first_row=0)) == 0
    assert list(Fold(3)(iter([]))) == []


def batches(rows, size):
    """Sorted as Spark sorts them: by user, time, item, action, old rows first."""
    ordered = sorted(rows, key=lambda r: (r[0], r[1], r[2], r[3], not r[4]))
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        columns = {
            "user_id": [r[0] for r in part],
            "event_us": [r[1] for r in part],
            "item_id": [r[2] for r in part],
            "action": [r[3] for r in part],
            "old": [r[4] for r in part],
        }
        yield pa.RecordBatch.from_pydict(columns)


@given(st.lists(event, max_size=40), st.integers(1, 4), st.integers(1, 7))
def test_fold_equals_merging_sets_whatever_the_batches(rows, length, size):
    out = [row for b in Fold(length)(batches(rows, size)) for row in b.to_pylist()]
    expected = {}
    for user in sorted({r[0] for r in rows}):
        old = BehaviourSequence().merge((Behaviour(r[1], r[2], r[3]) for r in rows if r[0] == user and r[4]), length=length)
        new = old.merge((Behaviour(r[1], r[2], r[3]) for r in rows if r[0] == user), length=length)
        if new != old:
            expected[user] = new
    assert {r["user_id"] for r in out} == set(expected)
    assert len(out) == len(expected)
    for row in out:
        sequence = expected[row["user_id"]]
        assert tuple(row["item_ids"]) == sequence.item_ids
        assert row["sequence_version"] == sequence.version
        assert row["event_us"] == sequence.last_time
        assert row["times"] == [b.time for b in sequence.behaviours]
        assert row["actions"] == [b.action for b in sequence.behaviours]


def test_one_user_over_many_batches_keeps_only_the_last():
    rows = [("u", n, "a", "x", False) for n in range(1_000)]
    (out,) = [b for b in Fold(5)(batches(rows, 10))]
    assert out.schema == FOLDED
    assert out["times"].to_pylist() == [[995, 996, 997, 998, 999]]
