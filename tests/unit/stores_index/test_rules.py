"""How hits are scored and ranked, and which offline row is the latest: pure functions against plain Python."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import EmbeddingSpace, views
from moontide.embeddings import inverse_norms
from moontide.simtier import SimTierSpec
from moontide.stores import index_rules as rules
from moontide.stores import offline_keys

pytestmark = pytest.mark.unit

START = datetime(2026, 1, 1, tzinfo=UTC)


@settings(deadline=None)
@given(scores=st.lists(st.integers(-3, 3), max_size=20), k=st.integers(1, 25))
def test_ranked_is_a_sort_by_score_then_id(scores, k):
    ids = [f"i{n * 7 % 23:02}" for n in range(len(scores))]
    found, values = rules.ranked(ids, np.array(scores, np.float32), k)
    expected = sorted(zip(scores, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    assert [(v, i) for v, i in zip(values.tolist(), found, strict=True)] == expected


@settings(deadline=None)
@given(data=st.data(), dim=st.sampled_from([2, 3, 64, 1_041]))
def test_cosines_are_the_float32_definition_bit_for_bit(data, dim):
    seed = data.draw(st.integers(0, 2**32 - 1))
    codes = np.random.default_rng(seed).integers(-127, 128, (5, dim)).astype(np.int8)
    inverse = inverse_norms(codes)
    found = rules.cosines(codes[:2], inverse[:2], codes[2:], inverse[2:])
    for row in range(2):
        for column in range(3):
            dot = np.float32(int(codes[row].astype(int) @ codes[2 + column].astype(int)))
            assert found[row, column] == dot * inverse[row] * inverse[2 + column]


def test_matches_pads_with_nan():
    found = rules.matches([(["a"], np.array([0.5], np.float32)), ([], np.empty(0, np.float32))], 2)
    assert found.ids == [["a"], []] and found.scores[0, 0] == 0.5
    assert np.isnan(found.scores[0, 1]) and np.isnan(found.scores[1]).all()


def test_columns_that_order_and_tell_apart():
    embedding = views.embedding_view(EmbeddingSpace("moon", 1, 2))
    order = ["source_version", "event_timestamp", "encoded_at", "content_hash"]
    assert offline_keys.order_columns(embedding) == order
    assert offline_keys.identity_columns(embedding) == ["item_id", *order]
    assert offline_keys.key_columns(embedding)[-2:] == ["deleted", "content_known_at"]
    assert offline_keys.order_columns(views.user_sequence()) == ["event_timestamp", "created"]
    assert offline_keys.identity_columns(views.user_sequence())[-1] == "sequence_version"
    assert offline_keys.identity_columns(views.simtier_view(SimTierSpec("moon_v1")))[:2] == ["user_id", "item_id"]


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=15))
def test_latest_rows_and_distinct_equal_plain_python(rows):
    view = views.item_features()
    keys = pa.table(
        {
            "item_id": pa.array([r[0] for r in rows], pa.string()),
            "source_version": pa.array([r[1] for r in rows], pa.int64()),
            "event_timestamp": pa.array([START + timedelta(days=r[2]) for r in rows], pa.timestamp("us", tz="UTC")),
            "created": pa.array([START + timedelta(days=r[3]) for r in rows], pa.timestamp("us", tz="UTC")),
            "place": pa.array(range(len(rows)), pa.int64()),
        }
    )
    best = {}
    for place, row in enumerate(rows):
        if row[0] not in best or row[1:] > rows[best[row[0]]][1:]:
            best[row[0]] = place
    assert offline_keys.latest_rows(view, keys)["place"].to_pylist() == sorted(best.values())
    kept = offline_keys.distinct(keys, offline_keys.identity_columns(view))
    assert np.flatnonzero(kept).tolist() == [n for n, row in enumerate(rows) if row not in rows[:n]]
