"""The same catalog row makes the same rows, whether a backfill reads it or an event brings it."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs import _encode
from jobs._encode import EncodeJob
from moontide.views import embedding_view, item_features
from tests.item_world import BLUE, FEATURES, NOW, World, remove, upsert

pytestmark = pytest.mark.parity
ITEMS = ["i0", "i1", "i2", "i3"]
VIEW = embedding_view(BLUE)


class Rows:
    """Where a backfill's rows go."""

    def __init__(self):
        self.tables = {VIEW: [], item_features(): []}

    def add(self, view, rows):
        self.tables[view].append(rows)

    def of(self, view):
        return sorted(pa.concat_tables(self.tables[view]).to_pylist(), key=lambda row: row["item_id"])


def content(version, price):
    """One content per version; neighbours share their text."""
    return {
        "title": f"title {version // 2}",
        "price": price,
        "category": None if version % 3 else "c",
        "image": b"x" if version > 3 else None,
    }


def event(row):
    item, version, time, deleted, price = row
    return remove(item, version, NOW + time) if deleted else upsert(item, version, NOW + time, **content(version, price))


def joined(world, rows):
    """Catalog rows beside their heads, as Spark joins them."""
    out = []
    for number, (item, version, time, deleted, price) in enumerate(rows):
        text = {"title": None, "price": None, "category": None, "image": None} if deleted else content(version, price)
        head, features = world.record(item) or {}, world.features(item) or {}
        log = [r for view, t in world.offline if view == VIEW for r in t.to_pylist()]
        known = [r for r in log if (r["item_id"], r["source_version"]) == (item, version)]
        out.append(
            {
                **{"item_id": item, "title": text["title"], "description": None, "attributes": None, "image": None},
                **{"image_bytes": text["image"], "category": text["category"], "price": text["price"]},
                **{"source_version": version, "event_us": NOW + time, "deleted": deleted, "source": 0, "row": number},
                **{"head_version": head.get("source_version"), "head_us": micros(head.get("event_timestamp"))},
                **{"head_encoded_us": micros(head.get("encoded_at")), "head_hash": head.get("content_hash")},
                "head_known_us": micros(head.get("content_known_at")),
                **{f"head_{name}": head.get(name) for name in ("deleted", "codes", "scale")},
                **{"feature_version": features.get("source_version"), "feature_us": micros(features.get("event_timestamp"))},
                **{f"feature_{name}": features.get(name) for name in ("deleted", "price", "category", "has_image", "has_text")},
                "known_us": [micros(r["content_known_at"]) for r in known] or None,
                "known_hash": [r["content_hash"] for r in known] or None,
            }
        )
    return pa.RecordBatch.from_pylist(out, schema=SCHEMA)


def micros(time):
    return None if time is None else pa.scalar(time, pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()


_KINDS = {
    pa.string(): [
        "item_id",
        "title",
        "description",
        "attributes",
        "image",
        "category",
        "head_hash",
        "feature_category",
    ],
    pa.binary(): ["image_bytes", "head_codes"],
    pa.float32(): ["head_scale", "feature_price"],
    pa.float64(): ["price"],
    pa.bool_(): ["deleted", "head_deleted", "feature_deleted", "feature_has_image", "feature_has_text"],
    pa.int64(): [
        *("source_version", "event_us", "source", "row", "head_version", "head_us", "head_encoded_us", "head_known_us"),
        *("feature_version", "feature_us"),
    ],
    pa.list_(pa.string()): ["known_hash"],
    pa.list_(pa.int64()): ["known_us"],
}
SCHEMA = pa.schema([(name, kind) for kind, names in _KINDS.items() for name in names])

version = st.integers(1, 6)
rows = st.tuples(st.sampled_from(ITEMS), version, st.integers(-5, 5), st.booleans(), st.sampled_from([None, 1.1, 2.0]))


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=8), st.lists(rows, min_size=1, max_size=4, unique_by=lambda row: row[0]))
@example([("i0", 1, 0, False, None), ("i0", 1, 0, True, None)], [("i0", 1, 0, False, None)])  # deleted, and there again
def test_equal_input_equal_rows(before, now):
    world = World(batch=2)
    world.feed([event(row) for row in before])
    world.now += 1_000_000
    world.offline, old = list(world.offline), len(world.offline)
    batch = joined(world, now)
    job, sink, counts = EncodeJob(BLUE, None, "nowhere", None, (), 8, world.now), Rows(), Counter()
    _encode.handle(job, batch, sink, counts)
    verdicts = Counter(world.verdicts([event(row) for row in now]))
    stream = Rows()
    for view, table in world.offline[old:]:
        stream.add(view, table)
    stream.add(VIEW, VIEW.table.empty_table())
    stream.add(FEATURES, FEATURES.table.empty_table())
    assert stream.of(VIEW) == sink.of(VIEW)
    assert stream.of(FEATURES) == sink.of(FEATURES)
    assert verdicts["applied"] == counts["encode"] + counts["tombstone"]
    assert verdicts["dead"] == counts["rejected"] == 0
