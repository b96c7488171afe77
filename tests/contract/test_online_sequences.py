"""Sequences merge in the store: whatever the order of the writers, the last L distinct behaviours stand."""

import itertools
import threading
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontide import views
from moontide.errors import Misconfigured, Poison
from moontide.order import MAX_AHEAD_US
from moontide.schemas import USER_SEQUENCE
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.stores.base import Status, WriteCounts

pytestmark = pytest.mark.contract

VIEW = views.user_sequence()
LENGTH = 3
_fresh = itertools.count()
BEHAVIOURS = st.builds(Behaviour, st.integers(0, 4), st.sampled_from(["a", "b"]), st.sampled_from(["click", "buy"]))


def rows(*given):
    made = [
        {
            "user_id": user,
            "event_timestamp": 1,
            "created": 1,
            "item_ids": [b.item_id for b in behaviours],
            "actions": [b.action for b in behaviours],
            "times": [b.time for b in behaviours],
            "sequence_version": 0,
        }
        for user, behaviours in given
    ]
    return pa.Table.from_pylist(made, USER_SEQUENCE)


def seen(*times):
    return [Behaviour(time, f"i{time}", "click") for time in times]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.lists(BEHAVIOURS, max_size=4), min_size=1, max_size=5),
    random=st.randoms(use_true_random=False),
    together=st.booleans(),
)
def test_any_order_of_any_parts_ends_in_the_last_distinct_ones(store, parts, random, together):
    user = f"u{next(_fresh)}"
    shuffled = parts + [random.choice(parts)]
    random.shuffle(shuffled)
    tables = [rows(*((user, part) for part in shuffled))] if together else [rows((user, part)) for part in shuffled]
    for table in tables:
        store.write_rows(VIEW, table)
    everything = {b for part in parts for b in part}
    expected = BehaviourSequence(tuple(sorted(everything)[-LENGTH:]))
    assert store.read_sequences(VIEW, [user]) == [expected]
    row = store.read_columns(VIEW, [user], ["item_ids", "actions", "times", "sequence_version"]).to_pylist()[0]
    assert row["item_ids"] == list(expected.item_ids) and row["times"] == [b.time for b in expected.behaviours]
    assert row["actions"] == [b.action for b in expected.behaviours] and row["sequence_version"] == expected.version
    record = store.read_records(VIEW, [user])
    assert record.schema == USER_SEQUENCE and record["sequence_version"].to_pylist() == [expected.version]
    assert store.heads(VIEW, [user]).event_timestamp.tolist() == [expected.last_time]


def test_counts_say_whether_the_content_changed(store):
    assert store.write_rows(VIEW, rows(("u", seen(1, 2)), ("w", []))) == WriteCounts(applied=2)
    assert store.write_rows(VIEW, rows(("u", seen(2)), ("w", []))) == WriteCounts(equal=2)
    assert store.write_rows(VIEW, rows(("u", seen(3, 4)))) == WriteCounts(applied=1)
    assert store.write_rows(VIEW, rows(("u", seen(1)))) == WriteCounts(equal=1)
    assert store.read_sequences(VIEW, ["u"]) == [BehaviourSequence(tuple(seen(2, 3, 4)))]
    assert store.write_rows(VIEW, rows()) == WriteCounts() and store.count(VIEW) == 2


def test_places_of_known_and_unknown_users(store):
    store.write_rows(VIEW, rows(("u", seen(5))))
    one, empty = BehaviourSequence(tuple(seen(5))), BehaviourSequence()
    assert store.read_sequences(VIEW, ["x", "u", "x", "u"]) == [empty, one, empty, one]
    assert store.read_sequences(VIEW, []) == []
    assert store.read_columns(VIEW, ["x"], ["item_ids"]).to_pylist()[0]["item_ids"] is None


def test_a_longer_store_keeps_more(opened):
    store = opened(length=1_000)
    store.write_rows(VIEW, rows(("u", seen(*range(1_200)))))
    (found,) = store.read_sequences(VIEW, ["u"])
    assert len(found.behaviours) == 1_000 and found.behaviours[0].time == 200


def test_the_first_writer_fixes_the_length_of_a_table(opened):
    store, other = opened(length=3), opened(length=5)
    other.write_rows(VIEW, rows())  # no rows, no claim
    store.write_rows(VIEW, rows(("u", seen(1, 2, 3, 4))))
    before = store.read_records(VIEW, ["u"])
    with pytest.raises(Misconfigured, match="MOONTIDE_SEQUENCE_LENGTH=3"):
        other.write_rows(VIEW, rows())
    for _ in range(2):
        with pytest.raises(Misconfigured, match="MOONTIDE_SEQUENCE_LENGTH=3"):
            other.write_rows(VIEW, rows(("u", seen(0, 5)), ("v", seen(1))))
    assert store.read_records(VIEW, ["u", "v"]) == before
    assert other.read_sequences(VIEW, ["u"]) == store.read_sequences(VIEW, ["u"])
    other.write_rows(views.user_sequence("other_sequence"), rows(("u", seen(1))))
    other.drop_view(VIEW)
    other.write_rows(VIEW, rows(("u", seen(1, 2, 3, 4, 5, 6))))
    assert len(other.read_sequences(VIEW, ["u"])[0].behaviours) == 5


def test_a_behaviour_of_the_future_is_poison(store, clock):
    store.write_rows(VIEW, rows(("u", seen(1, clock.now + MAX_AHEAD_US))))
    before = store.read_sequences(VIEW, ["u", "v"])
    with pytest.raises(Poison, match="times"):
        store.write_rows(VIEW, rows(("v", seen(2)), ("u", seen(3, clock.now + MAX_AHEAD_US + 1))))
    assert store.read_sequences(VIEW, ["u", "v"]) == before


def test_time_to_live_and_delete(store, clock):
    view = replace(VIEW, ttl=timedelta(seconds=1))
    store.write_rows(view, rows(("u", seen(clock.now))))
    assert len(store.read_sequences(view, ["u"])[0].behaviours) == 1
    clock.now += 1_000_001
    assert store.read_sequences(view, ["u"]) == [BehaviourSequence()]
    assert store.read_columns(view, ["u"], ["times"]).column("status").to_pylist() == [Status.EXPIRED]
    assert len(store.read_sequences(VIEW, ["u"])[0].behaviours) == 1
    assert store.delete(VIEW, ["u"]) == 1 and store.read_sequences(VIEW, ["u"]) == [BehaviourSequence()]


@pytest.mark.parametrize(
    "bad",
    [
        {"times": [1, 2]},
        {"item_ids": ["a b"]},
        {"item_ids": [None]},
        {"actions": [None]},
        {"times": [None]},
        {"user_id": "no id"},
        {"times": None},
    ],
)
def test_bad_rows_are_poison_and_nothing_is_written(store, bad):
    row = {"user_id": "u", "event_timestamp": 1, "created": 1, "item_ids": ["a"], "actions": ["x"], "times": [1]}
    fine = dict(row, user_id="fine")
    with pytest.raises(Poison):
        store.write_rows(VIEW, pa.Table.from_pylist([fine, row | bad]))
    assert store.count(VIEW) == 0


def test_a_missing_column_is_misconfigured(store):
    with pytest.raises(Misconfigured, match="times"):
        store.write_rows(VIEW, rows(("u", seen(1))).drop_columns(["times"]))


def test_writers_at_once_lose_nothing(opened):
    stores, failures = [opened(length=400) for _ in range(4)], []

    def write(store, first):
        try:
            for time in range(first, 400, 4):
                store.write_rows(VIEW, rows(("u", seen(time)), ("w", seen(time))))
        except Exception as error:  # noqa: BLE001 - carried to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(store, n)) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    expected = BehaviourSequence(tuple(seen(*range(400))))
    assert stores[0].read_sequences(VIEW, ["u", "w"]) == [expected, expected]
