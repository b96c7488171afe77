"""Every value of a training set, against plain loops over every behaviour, every version and every catalog row."""

from __future__ import annotations

import math
import zlib
from datetime import UTC, datetime, timedelta
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.training_set import main
from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.pit import build
from moontide.pit.training_set import read_training_set
from moontide.records import embedding_rows
from moontide.stores.offline import OfflineTables
from moontide.views import embedding_view, item_features

pytestmark = pytest.mark.contract
SPACE = EmbeddingSpace("moon", 1, 3)
START = datetime(2021, 3, 1, tzinfo=UTC)
STEP = 8 * 3_600_000_000
USERS, ITEMS = ("u0", "u1", "u2"), ("a", "b", "c", "d")
TIERS = 4
TIME = st.integers(0, 9)
BEHAVIOUR = st.tuples(st.sampled_from(USERS[:2]), st.sampled_from(ITEMS), st.sampled_from(["buy", "click"]), TIME)
#: user, item, time, label, further label; a user of None, or a label of None, is a bad row.
LABEL = st.tuples(
    st.sampled_from([*USERS, None]), st.sampled_from([*ITEMS, "only_labelled"]), TIME, st.sampled_from([0.0, 1.0, 1.0, None]),
    st.sampled_from([None, 0.0, 2.5]),
)  # fmt: skip
#: item, source_version, event_timestamp, encoded_at, content_known_at, hash, kind (0 vector, 1 tombstone, 2 zero vector)
VERSION = st.tuples(
    st.sampled_from(ITEMS), st.integers(1, 3), TIME, st.integers(0, 3), TIME, st.integers(0, 1), st.sampled_from([0, 0, 0, 1, 2])
)
#: item, source_version, event_timestamp, created, deleted, price
CATALOG = st.tuples(
    st.sampled_from(ITEMS), st.integers(1, 3), TIME, st.integers(0, 1), st.booleans(), st.sampled_from([None, 0.0, 9.5])
)
WORLD = st.fixed_dictionaries(
    {
        "behaviours": st.lists(BEHAVIOUR, max_size=25),
        "labels": st.lists(LABEL, max_size=20),
        "versions": st.lists(VERSION, min_size=1, max_size=12, unique_by=lambda v: v[:4] + v[5:6]),
        "catalog": st.lists(CATALOG, max_size=6, unique_by=lambda v: v[:4]),
        "length": st.sampled_from([1, 2, 5, 50]),
        "row_group": st.sampled_from([1, 3, 100]),
        "piece": st.sampled_from([1, 4, 1 << 20]),
    }
)
#: The catalog says nothing of the only item that is labelled.
ELSEWHERE = {
    "behaviours": [], "labels": [("u0", "b", 0, 0.0, None)], "versions": [("a", 1, 0, 0, 0, 0, 0)],
    "catalog": [("a", 1, 0, 0, False, None)], "length": 1, "row_group": 1, "piece": 1,
}  # fmt: skip


def us(step):
    return int(START.timestamp()) * 1_000_000 + step * STEP


def vector_of(version):
    """A vector that differs from version to version, in several tiers of the others."""
    if version[6]:
        return [0.0, 0.0, 0.0]
    draw = np.random.default_rng(zlib.crc32(repr(version[:6]).encode()))
    return draw.normal(size=3).tolist()


def codes_of(version):
    return Embeddings.from_float(SPACE, np.array([vector_of(version)])).codes[0]


def write_world(folder, world):
    """Input files, and the offline tables; every second version is written twice."""
    home = folder / "home"
    home.mkdir()
    (home / "spaces.toml").write_text('[[space]]\nname = "moon"\nversion = 1\ndim = 3\n')
    columns = list(zip(*world["labels"], strict=True)) or [()] * 5
    table = {
        "user_id": pa.array(columns[0], pa.string()), "item_id": pa.array(columns[1], pa.string()),
        "event_timestamp": pa.array([us(t) for t in columns[2]], pa.int64()).cast(schemas.TIMESTAMP),
        "label": pa.array(columns[3], pa.float32()), "stay": pa.array(columns[4], pa.float64()),
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / "labels.parquet", row_group_size=world["row_group"])
    columns = list(zip(*world["behaviours"], strict=True)) or [()] * 4
    times = pa.array([us(t) for t in columns[3]], pa.int64()).cast(schemas.TIMESTAMP)
    rows = [*(pa.array(c, pa.string()) for c in columns[:3]), times]
    pq.write_table(pa.table(rows, schema=schemas.BEHAVIOURS), folder / "behaviours.parquet", row_group_size=world["row_group"])
    tables = OfflineTables(home / "offline")
    versions = world["versions"]
    for writer, part in (("one", versions), ("two", versions[::2])):
        tables.append(embedding_view(SPACE), log_rows(part), writer=writer)
    if world["catalog"]:
        tables.append(item_features(), catalog_rows(world["catalog"]), writer="one")
    return home


def log_rows(versions):
    vectors = Embeddings.from_float(SPACE, np.array([vector_of(v) for v in versions]), ids=[v[0] for v in versions])
    event, encoded, known = (np.array([us(v[at]) for v in versions]) for at in (2, 3, 4))
    return embedding_rows(
        vectors, source_version=np.array([v[1] for v in versions]), event_timestamp=event, encoded_at=encoded, content_known_at=known,
        content_hash=[f"{v[5]:032x}" for v in versions], deleted=np.array([v[6] == 1 for v in versions]),
    )  # fmt: skip


def catalog_rows(catalog):
    columns = {
        "item_id": [c[0] for c in catalog], "source_version": [c[1] for c in catalog],
        "event_timestamp": [START + timedelta(microseconds=c[2] * STEP) for c in catalog],
        "created": [START + timedelta(microseconds=c[3] * STEP) for c in catalog], "deleted": [c[4] for c in catalog],
        "price": [c[5] for c in catalog], "category": [None] * len(catalog), "has_image": [True] * len(catalog),
        "has_text": [None] * len(catalog),
    }  # fmt: skip
    return pa.table([pa.array(columns[f.name], f.type) for f in schemas.ITEM_FEATURES], schema=schemas.ITEM_FEATURES)


def valid_version(versions, item, now):
    known = [v for v in versions if v[0] == item and max(v[2], v[4]) <= now]
    best = max(known, key=lambda v: (v[1], v[2], v[3], v[5]), default=None)
    return None if best is None or best[6] else best


def tier_row(candidate, item, history):
    """Counts and missing by the definition, one pair at a time."""
    counts, missing = [0] * TIERS, 0
    for other, version in history:
        if other == item:
            continue
        if candidate is None or version is None:
            missing += 1
            continue
        left, right = codes_of(candidate).astype(np.int64), codes_of(version).astype(np.int64)
        norms = [np.float32(1 / math.sqrt(float((c * c).sum()))) for c in (left, right)]
        cos = np.float32(int(left @ right)) * norms[0] * norms[1]
        tier = math.ceil(cos * np.float32(TIERS // 2)) + TIERS // 2 - 1
        counts[min(max(tier, 0), TIERS - 1)] += 1
    return counts, missing


def expected_row(world, user, item, now):
    """What one label must come with."""
    acts = sorted({(t, i, a, u) for u, i, a, t in world["behaviours"]})
    mine = [(t, i) for t, i, _, u in acts if u == user and t < now]
    history = [(i, valid_version(world["versions"], i, now)) for _, i in mine[-world["length"] :]]
    sold = [t for t, i, _, _ in acts if i == item and t < now]
    owned = [t for t, i in mine if i == item]
    candidate = valid_version(world["versions"], item, now)
    counts, missing = tier_row(candidate, item, history)
    day = 86_400_000_000 / STEP
    raw = {
        "sales_30_days": sum(t >= now - 30 * day for t in sold), "sales_7_days": sum(t >= now - 7 * day for t in sold),
        "sales_ever": len(sold), "age_days": (now - min(sold)) / day if sold else 0, "history_length": len(mine),
        "bought_before": len(owned),
    }  # fmt: skip
    scalars = {name: np.float32(np.log1p(np.float64(value))) for name, value in raw.items()}
    if world["catalog"]:
        known = [c for c in world["catalog"] if c[0] == item and c[2] <= now]
        best = max(known, key=lambda c: (c[1], c[2], c[3]), default=None)
        alive = best is not None and not best[4]
        scalars["price"] = np.log1p(np.float32(best[5] or 0)) if alive else np.float32(0)
        scalars["has_image"] = np.float32(alive)
        scalars["has_text"] = np.float32(0)
    return mine, history, candidate, counts, missing, scalars


@given(world=WORLD)
@example(world=ELSEWHERE)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_value_is_that_of_the_loops(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    home = write_world(folder, world)
    good = [(row, *label) for row, label in enumerate(world["labels"]) if label[0] is not None and label[3] is not None]
    with mock.patch.object(build, "BEHAVIOURS", world["piece"]):
        code = main(
            ["--home", str(home), "--impressions", str(folder / "labels.parquet"),
             "--behaviours", str(folder / "behaviours.parquet"), "--labels", "stay", "--space", "moon_v1",
             "--length", str(world["length"]), "--tiers", str(TIERS), "--out", str(folder / "out")]
        )  # fmt: skip
    assert code == (3 if len(good) < len(world["labels"]) else 0)
    got = read_training_set(folder / "out")
    assert got.label_row.tolist() == [row for row, *_ in good]
    assert got.card["rows"] == len(good)
    assert sum(got.card["rejected"].values()) == len(world["labels"]) - len(good)
    for at, (_, user, item, now, label, stay) in enumerate(good):
        mine, history, candidate, counts, missing, scalars = expected_row(world, user, item, now)
        request = int(got.request[at])
        span = slice(int(got.history_offsets[request]), int(got.history_offsets[request + 1]))
        assert (got.user_ids[got.request_user[request]], got.request_time[request]) == (user, us(now))
        assert got.known[request] == len(mine)
        assert [got.item_ids[i] for i in got.history_items[span]] == [i for i, _ in history]
        assert got.history_times[span].tolist() == [us(t) for t, _ in mine[-world["length"] :]]
        assert [pointed(got, row) for row in got.history_vectors[span]] == [described(v) for _, v in history]
        assert (got.item_ids[got.item[at]], got.label[at]) == (item, label)
        assert np.array_equal(got.labels["stay"][at], np.float32(np.nan if stay is None else stay), equal_nan=True)
        assert pointed(got, got.vector[at]) == described(candidate)
        assert (got.counts[at].tolist(), got.missing[at]) == (counts, missing)
        assert {name: values[at] for name, values in got.scalars.items()} == scalars
    # A request is a run of labels of one user and time, within a row group.
    groups = [(row // world["row_group"], user, now) for row, user, _, now, *_ in good]
    assert got.request.tolist() == np.cumsum([a > 0 and groups[a] != groups[a - 1] for a in range(len(groups))]).tolist()


def pointed(got, row):
    return None if row < 0 else (got.vectors.ids[row], got.vectors.codes[row].tolist())


def described(version):
    return None if version is None else (version[0], codes_of(version).tolist())
