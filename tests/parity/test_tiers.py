"""The tiers stored ahead, the tiers served, and the definition: bit-equal, from every store."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, schemas, views
from moontide.features import compute_tiers, request_tiers
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.stores import online_store

pytestmark = pytest.mark.parity
SPACE = EmbeddingSpace("moon", 1, 16)
NOW = 1_700_000_000_000_000


@pytest.fixture(params=["memory", "lmdb", "redis"])
def store(request, tmp_path):
    url = request.getfixturevalue("redis_url") if request.param == "redis" else "redis://127.0.0.1:1/0"
    opened = online_store(Settings(home=tmp_path, online=request.param, redis_url=url, project="parity"))
    yield opened
    opened.close()


def fill(store, rng, items=30, users=4):
    ids = [f"i{n}" for n in range(items)]
    vectors = Embeddings.from_float(SPACE, rng.normal(size=(items, 16)).astype(np.float32), ids=ids)
    rows = embedding_rows(vectors, source_version=1, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW)
    store.write_rows(views.embedding_view(SPACE), rows)
    for u in range(users):
        length = int(rng.integers(0, 40))
        times = np.sort(rng.choice(10_000, length, replace=False))
        seen = rng.choice([*ids, "unknown-1", "unknown-2"], length)
        table = pa.table(
            [
                [f"u{u}"],
                pa.array([int(times.max(initial=0))], schemas.TIMESTAMP),
                pa.array([NOW], schemas.TIMESTAMP),
                [list(seen)],
                [["buy"] * length],
                pa.array([times.tolist()], pa.list_(pa.int64())),
                pa.array([0], pa.int64()),
            ],
            schema=schemas.USER_SEQUENCE,
        )
        store.write_rows(views.user_sequence(), table)
    return ids


@pytest.mark.parametrize("rule", ["keep", "drop_same_id"])
def test_ahead_served_and_defined_are_the_same(store, rule):
    rng = np.random.default_rng(7)
    ids = fill(store, rng)
    spec = SimTierSpec("moon_v1", 20, 25, self_match=rule)
    lists = {f"u{u}": [*rng.choice(ids, 6, replace=False), "unknown-3"] for u in range(5)}
    rows = compute_tiers(store, SPACE, spec, lists, clock=lambda: NOW)
    assert rows.schema == schemas.USER_ITEM_SIMTIER and rows.num_rows == 35
    at = 0
    for user, items in lists.items():
        served = request_tiers(store, SPACE, spec, user, items)
        wanted = reference_tier_counts(served.candidates, served.history, spec)
        ahead = rows.slice(at, len(items))
        at += len(items)
        assert len(served.history) <= 25
        assert np.array_equal(served.tiers.counts, wanted.counts)
        assert np.array_equal(served.tiers.missing, wanted.missing)
        assert ahead.column("counts").to_pylist() == wanted.counts.tolist()
        assert ahead.column("missing").to_pylist() == wanted.missing.tolist()
        assert set(ahead.column("sequence_version").to_pylist()) == {served.sequence_version}


def test_tiers_of_a_prefix_space_are_counted_over_its_own_cosines(store):
    rng = np.random.default_rng(17)
    ids, prefix = fill(store, rng), SPACE.prefix(4)
    spec, lists = SimTierSpec(prefix.id, 20, 25), {f"u{u}": [*rng.choice(ids, 6, replace=False), "unknown-3"] for u in range(4)}
    rows = compute_tiers(store, prefix, spec, lists, clock=lambda: NOW)
    whole = compute_tiers(store, SPACE, SimTierSpec("moon_v1", 20, 25), lists, clock=lambda: NOW)
    wanted = [
        reference_tier_counts(served.candidates, served.history, spec).counts.tolist()
        for served in (request_tiers(store, prefix, spec, user, items) for user, items in lists.items())
    ]
    assert rows.column("counts").to_pylist() == sum(wanted, [])
    assert rows.column("counts").to_pylist() != whole.column("counts").to_pylist()
    # Both are cut from the same records.
    assert rows.column("history_digest").to_pylist() == whole.column("history_digest").to_pylist()


def test_the_stored_row_comes_back_as_it_was_written(store):
    rng = np.random.default_rng(8)
    ids = fill(store, rng)
    spec = SimTierSpec("moon_v1", 10, 25)
    view = views.simtier_view(spec)
    rows = compute_tiers(store, SPACE, spec, {"u0": ids[:3], "u1": ids[3:4]}, clock=lambda: NOW)
    store.write_rows(view, rows)
    keys = list(zip(rows.column("user_id").to_pylist(), rows.column("item_id").to_pylist(), strict=True))
    back = store.read_records(view, keys)
    assert back.select(rows.column_names).to_pylist() == rows.to_pylist()


def test_a_changed_history_vector_changes_the_digest_and_not_the_sequence_version(store):
    ids = fill(store, np.random.default_rng(9))
    spec = SimTierSpec("moon_v1", 20, 50)
    users = {f"u{u}": ids[:2] for u in range(4)}
    before = compute_tiers(store, SPACE, spec, users, clock=lambda: NOW)
    vectors = Embeddings.from_float(SPACE, np.ones((len(ids), 16), np.float32), ids=ids)
    newer = embedding_rows(vectors, source_version=2, event_timestamp=NOW + 1, encoded_at=NOW, content_known_at=NOW)
    store.write_rows(views.embedding_view(SPACE), newer)
    after = compute_tiers(store, SPACE, spec, users, clock=lambda: NOW)
    assert before.column("sequence_version") == after.column("sequence_version")
    assert before.column("history_digest") != after.column("history_digest")


def test_nobody_asked_is_no_row(store):
    assert compute_tiers(store, SPACE, SimTierSpec("moon_v1"), {}, clock=lambda: NOW).num_rows == 0
    assert compute_tiers(store, SPACE, SimTierSpec("moon_v1"), {"u": []}, clock=lambda: NOW).num_rows == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_any_catalog_any_history(tmp_path, seed):
    opened = online_store(Settings(home=tmp_path, online="memory", project=f"p{seed}"))
    rng = np.random.default_rng(seed)
    ids = fill(opened, rng, items=int(rng.integers(1, 12)), users=2)
    spec = SimTierSpec("moon_v1", int(rng.choice([2, 10, 20])), int(rng.integers(1, 30)))
    served = request_tiers(opened, SPACE, spec, "u0", ids)
    ahead = compute_tiers(opened, SPACE, spec, {"u0": ids}, clock=lambda: NOW)
    assert ahead.column("counts").to_pylist() == served.tiers.counts.tolist()


def test_rows_are_stamped_after_everything_they_were_made_from(store):
    ids = fill(store, np.random.default_rng(10))
    reads = []

    class Watched:
        def __getattr__(self, name):
            def call(*args, **kwargs):
                reads.append(name)
                return getattr(store, name)(*args, **kwargs)

            return call

    def clock():
        reads.append("clock")
        return NOW + 5

    rows = compute_tiers(Watched(), SPACE, SimTierSpec("moon_v1"), {"u0": ids[:2], "u1": ids[:1]}, clock=clock)
    assert reads[-1] == "clock"
    assert reads.count("clock") == 1
    assert set(rows.column("computed_at").cast(pa.int64()).to_pylist()) == {NOW + 5}
