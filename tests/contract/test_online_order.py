"""The write rule: whatever the order, grouping and repetition of writes, the highest one stands."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, schemas, views
from moontide.order import WriteOrder
from moontide.records import embedding_rows
from moontide.stores.base import Status, WriteCounts
from moontide.views import ViewKind, ViewSpec

pytestmark = pytest.mark.contract

SPACE = EmbeddingSpace("order", 1, 4)
VIEW = views.embedding_view(SPACE)
_fresh = itertools.count()
SHARED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

ITEMS = st.sampled_from(["a", "b", "c"])
NEAR = st.integers(-2, 2)
WRITES = st.lists(st.tuples(ITEMS, NEAR, NEAR, NEAR, st.integers(0, 2), st.booleans()), max_size=12)


def vector_of(order):
    """The one vector a write of this order carries: equal orders, equal values."""
    return Embeddings.from_float(SPACE, np.random.default_rng(abs(hash(order))).normal(size=(1, 4)).astype(np.float32))


def rows_of(writes, suffix):
    made = []
    for item, version, event, encoded, content, deleted in writes:
        order = WriteOrder(version, event, encoded, bytes([content] * 16))
        found = Embeddings.absent(SPACE, 1) if deleted else vector_of(order)
        made.append(
            embedding_rows(
                found.with_ids([item + suffix]),
                source_version=version,
                event_timestamp=event,
                encoded_at=encoded,
                content_known_at=event,
                content_hash=[order.content_hash.hex()],
                deleted=np.array([deleted]),
            )
        )
    return pa.concat_tables([schemas.ITEM_EMBEDDING.empty_table(), *made])


def oracle(writes):
    """Item -> the highest (order, deleted) of its writes; one deletion flag per order."""
    state = {}
    for item, version, event, encoded, content, deleted in writes:
        order = WriteOrder(version, event, encoded, bytes([content] * 16))
        if item not in state or order > state[item][0]:
            state[item] = (order, deleted)
    return state


def consistent(writes):
    """The same writes, where equal (item, order) agree on being a deletion."""
    flags = {}
    return [(*write[:5], flags.setdefault(write[:5], write[5])) for write in writes]


@SHARED
@given(writes=WRITES.map(consistent), random=st.randoms(use_true_random=False), cut=st.integers(0, 12))
def test_any_permutation_and_repetition_ends_in_the_same_state(store, writes, random, cut):
    suffix = str(next(_fresh))
    shuffled = writes + random.choices(writes, k=3) if writes else []
    random.shuffle(shuffled)
    counts = store.write_rows(VIEW, rows_of(shuffled[:cut], suffix)) + store.write_rows(VIEW, rows_of(shuffled[cut:], suffix))
    assert counts.applied + counts.equal + counts.stale == len(shuffled)
    expected = oracle(writes)
    ids = [item + suffix for item in "abc"]
    heads, found = store.heads(VIEW, ids), store.read_embeddings(SPACE, ids)
    for n, item in enumerate("abc"):
        if item not in expected:
            assert heads.status[n] == Status.ABSENT and not found.present[n]
            continue
        order, deleted = expected[item]
        assert heads.status[n] == (Status.DELETED if deleted else Status.PRESENT)
        stood = WriteOrder(heads.source_version[n], heads.event_timestamp[n], heads.encoded_at[n], bytes(heads.content_hash[n]))
        assert stood == order
        assert np.array_equal(found.codes[n], np.zeros(4, np.int8) if deleted else vector_of(order).codes[0])


@SHARED
@given(writes=WRITES.map(consistent))
def test_writing_everything_again_changes_nothing(store, writes):
    suffix = str(next(_fresh))
    table = rows_of(writes, suffix)
    store.write_rows(VIEW, table)
    ids = [item + suffix for item in "abc"]
    before = store.read_records(VIEW, ids)
    again = store.write_rows(VIEW, table)
    assert again.applied == 0 and again.equal >= len(oracle(writes))
    assert store.read_records(VIEW, ids).equals(before)


def rows_at(found, version, event=1, encoded=1, digest=0):
    return embedding_rows(
        found,
        source_version=version,
        event_timestamp=event,
        encoded_at=encoded,
        content_known_at=1,
        content_hash=[f"{digest:032x}"] * len(found),
    )


@pytest.mark.parametrize(
    ("higher", "lower"),
    [
        ((2, 1, 1, 0), (1, 9, 9, 9)),
        ((1, 2, 1, 0), (1, 1, 9, 9)),
        ((1, 1, 2, 0), (1, 1, 1, 9)),
        ((1, 1, 1, 255), (1, 1, 1, 127)),
        ((1, 1, 1, 128), (1, 1, 1, 127)),
        ((0, 1, 1, 0), (-1, 1, 1, 0)),
        ((2**63 - 1, 1, 1, 0), (-(2**63), 1, 1, 0)),
        ((1, 0, 1, 0), (1, -1, 1, 0)),
    ],
)
def test_each_part_of_the_order_decides_after_the_ones_before_it(store, higher, lower):
    big, small = (Embeddings.from_float(SPACE, np.full((1, 4), v, np.float32), ids=["a"]) for v in (1, -1))
    assert store.write_rows(VIEW, rows_at(small, *lower)) == WriteCounts(applied=1)
    assert store.write_rows(VIEW, rows_at(big, *higher)) == WriteCounts(applied=1)
    assert store.write_rows(VIEW, rows_at(small, *lower)) == WriteCounts(stale=1)
    assert store.write_rows(VIEW, rows_at(small, *higher)) == WriteCounts(equal=1)
    assert np.array_equal(store.read_embeddings(SPACE, ["a"]).codes, big.codes)


def test_of_two_rows_in_one_call_the_higher_wins_wherever_it_stands(store):
    found = Embeddings.from_float(SPACE, np.eye(4, dtype=np.float32)[:3], ids=["a", "a", "a"])
    for versions in itertools.permutations([1, 2, 3]):
        store.delete(VIEW, ["a"])
        counts = store.write_rows(VIEW, rows_at(found, np.array(versions)))
        assert counts.applied + counts.stale == 3 and counts.applied >= 1
        assert store.heads(VIEW, ["a"]).source_version.tolist() == [3]
        assert np.array_equal(store.read_embeddings(SPACE, ["a"]).codes[0], found.codes[versions.index(3)])


PLAIN = ViewSpec(
    "plain",
    ViewKind.COLUMNS,
    ("key",),
    pa.schema([("key", pa.string()), ("event_timestamp", schemas.TIMESTAMP), ("created", schemas.TIMESTAMP), ("n", pa.int64())]),
    created="created",
    fenced=False,
)


@SHARED
@given(writes=st.lists(st.tuples(NEAR, NEAR), min_size=1, max_size=8), random=st.randoms(use_true_random=False))
def test_views_without_versions_order_by_event_time_then_creation(store, writes, random):
    key = f"k{next(_fresh)}"
    shuffled = list(writes)
    random.shuffle(shuffled)
    made = [{"key": key, "event_timestamp": at, "created": created, "n": at * 10 + created} for at, created in shuffled]
    for row in made:
        store.write_rows(PLAIN, pa.Table.from_pylist([row], PLAIN.table))
    at, created = max(writes)
    assert store.read_columns(PLAIN, [key], ["n"]).column("n").to_pylist() == [at * 10 + created]


def test_a_later_write_with_a_missing_creation_time_is_ordered_as_zero(store):
    table = pa.Table.from_pylist([{"key": "x", "event_timestamp": 5, "created": 1, "n": 1}], PLAIN.table)
    store.write_rows(PLAIN, table)
    nulls = pa.Table.from_pylist([{"key": "x", "event_timestamp": 5, "created": None, "n": 2}], PLAIN.table)
    assert store.write_rows(PLAIN, nulls) == WriteCounts(stale=1)
    assert store.write_rows(PLAIN, nulls.drop_columns(["created"])) == WriteCounts(stale=1)
