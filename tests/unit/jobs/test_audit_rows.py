"""Rows by exact version, values by bits, skew by feature: against dictionaries and plain loops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs._audit_offline import NOT_READ, OfflineVectors
from jobs._audit_report import Skew
from jobs._audit_time import Behaviours
from jobs._audit_versions import unequal
from moontide import Embeddings, EmbeddingSpace
from moontide.errors import SpaceMismatch
from moontide.pit.ids import Ids
from moontide.records import embedding_rows
from moontide.request_log import VERSION, vector_digests

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 4, "sha256:" + "0" * 64)
VERSIONS = st.tuples(
    st.sampled_from("abc"), st.integers(-2, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from([0, 1, 255])
)


def rows(keys):
    codes = np.arange(len(keys) * 4, dtype=np.int64).reshape(-1, 4) % 100 + 1
    made = Embeddings.from_codes(SPACE, codes.astype(np.int8), np.ones(len(keys), np.float32), ids=[k[0] for k in keys])
    column = [np.array([k[n] for k in keys], np.int64) for n in (1, 2, 3)]
    return embedding_rows(
        made, source_version=column[0], event_timestamp=column[1], encoded_at=column[2], content_known_at=0,
        content_hash=[f"{k[4]:02x}" * 16 for k in keys],
    )  # fmt: skip


def versions(keys):
    names = [f.name for f in VERSION]
    return pa.array([k and dict(zip(names, [*k[1:4], f"{k[4]:02x}" * 16], strict=True)) for k in keys], VERSION)


@settings(deadline=None)
@given(st.lists(VERSIONS, unique=True, max_size=12), st.lists(VERSIONS | st.none(), max_size=12))
def test_a_row_is_found_by_its_whole_version_and_by_nothing_less(there, wanted):
    items = Ids.of([pa.array(["a", "b", "c"])])
    half = len(there) // 2
    tables = [rows(some) for some in (there[:half], there[half:]) if some]
    made = OfflineVectors.build(tables, SPACE, items)
    at = {key: row for row, key in enumerate(there)}
    found = made.rows(pa.array([k[0] if k else "a" for k in wanted], pa.string()), versions(wanted))
    assert found.tolist() == [NOT_READ if k is None else at.get(k, -1) for k in wanted]
    assert len(made.vectors) == len(there)


def test_rows_of_unwanted_items_are_left_out():
    made = OfflineVectors.build([rows([("a", 1, 1, 1, 0), ("b", 1, 1, 1, 0)])], SPACE, Ids.of([pa.array(["b"])]))
    assert len(made.vectors) == 1 and made.vectors.codes[0].tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize("codes", [[b"123", b"12345"], [b"123", b"123"], [b"1234", None]])
def test_codes_of_another_width_are_refused_though_their_sum_fits(codes):
    table = rows([("a", 1, 1, 1, 0), ("b", 1, 1, 1, 0)])
    spoilt = table.set_column(table.column_names.index("codes"), "codes", pa.array(codes, pa.binary()))
    with pytest.raises(SpaceMismatch, match="moon_v1: expected 4 codes a row, got"):
        OfflineVectors.build([spoilt], SPACE, Ids.of([pa.array(["a", "b"])]))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (pa.array([1.0, None, 0.0, None, float("nan")], pa.float32()), pa.array([1.0, None, -0.0, 2.0, float("nan")], pa.float32()),
         [False, False, True, True, False]),
        (pa.array(["a", None]), pa.array(["b", "c"]), [True, True]),
        (pa.array([True, False]), pa.array([True, None]), [False, True]),
        (pa.array([], pa.float32()), pa.array([], pa.float32()), []),
    ],
)  # fmt: skip
def test_values_are_compared_by_their_bits(left, right, expected):
    assert unequal(left, right).tolist() == expected


def test_a_digest_is_of_codes_and_scale():
    codes, scale = np.array([[1, 2], [1, 2], [0, 0]], np.int8), np.array([1, 2, 0], np.float32)
    found = vector_digests(codes, scale, np.array([True, True, False]))
    assert found[0] != found[1] and found[2] is None and len(found[0]) == 16
    assert vector_digests(codes[:0], scale[:0], np.zeros(0, bool)) == []


def test_skew_counts_every_value_and_keeps_a_bounded_sample(monkeypatch):
    monkeypatch.setattr("jobs._audit_report._AGES", 100)
    skew = Skew(np.random.default_rng(3))
    skew.add("a", np.zeros(0, bool), np.zeros(0, np.int64))
    skew.add("a", np.arange(1_000) >= 200, np.arange(1_000) * -1_000_000)
    skew.add("b", np.array([False]))
    found = skew.report()
    assert (found["a"]["compared"], found["a"]["differing"], found["a"]["share"]) == (1_000, 800, 0.8)
    assert found["a"]["max_age_seconds"] == 999 and 500 < found["a"]["median_age_seconds"] < 700
    assert found["b"] == {"compared": 1, "differing": 0, "share": 0.0, "median_age_seconds": None, "max_age_seconds": None}


BEHAVIOUR = st.tuples(st.integers(0, 5), st.sampled_from(["i", "i.x", "i-"]), st.sampled_from(["buy", "klik\u00e9"]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("uv"), st.lists(BEHAVIOUR, max_size=5)), max_size=5), st.integers(0, 6), st.integers(1, 4)
)
def test_behaviours_before_a_time_are_those_of_a_plain_loop(sequences, time, length):
    table = pa.table(
        {
            "user_id": pa.array([u for u, _ in sequences], pa.string()),
            "item_ids": pa.array([[b[1] for b in s] for _, s in sequences], pa.list_(pa.string())),
            "actions": pa.array([[b[2] for b in s] for _, s in sequences], pa.list_(pa.string())),
            "times": pa.array([[b[0] for b in s] for _, s in sequences], pa.list_(pa.int64())),
        }
    )
    users = Ids.of([pa.array(["u", "w"])])
    made = Behaviours.build([table], users)
    offsets, pairs, times = made.before(pa.array(["w", "u"]), np.array([time, time]), length)
    want = sorted({b for u, s in sequences if u == "u" for b in s if b[0] < time})[-length:]
    assert offsets.tolist() == [0, 0, len(want)]
    assert times.tolist() == [b[0] for b in want]
    assert [s.as_py().split("\x00") for s in made.pairs.strings(pairs)] == [[b[1], b[2]] for b in want]
