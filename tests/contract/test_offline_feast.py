"""Stock Feast with its duckdb offline store reads the offline tables: empty, with replays, and around a compaction."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Bytes, Float32, Int64

from moontide import EmbeddingSpace, views
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_compact import compact

pytestmark = pytest.mark.integration

SPACE = EmbeddingSpace("moon", 1, 2)
VIEW = views.embedding_view(SPACE)
DAY = datetime(2026, 3, 1, tzinfo=UTC)


def row(item, version, day, encoded=0, *, deleted=False):
    return {
        "item_id": item, "source_version": version, "event_timestamp": DAY + timedelta(days=day),
        "encoded_at": DAY + timedelta(days=day, seconds=encoded), "content_known_at": DAY + timedelta(days=day),
        "content_hash": f"{version:032x}", "deleted": deleted, "codes": bytes([version, encoded]), "scale": 1.0,
        "inv_norm": 1.0, "embedding": [float(version), float(encoded)], "space": SPACE.id,
    }  # fmt: skip


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=VIEW.table)


@pytest.fixture
def site(tmp_path):
    tables = OfflineTables(tmp_path / "offline")
    config = RepoConfig(
        project="t",
        registry=str(tmp_path / "registry.db"),
        provider="local",
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )
    store = FeatureStore(config=config)
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    source = FileSource(
        path=tables.ensure(VIEW),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="encoded_at",
    )
    schema = [
        Field(name="source_version", dtype=Int64),
        Field(name="deleted", dtype=Bool),
        Field(name="codes", dtype=Bytes),
        Field(name="embedding", dtype=Array(Float32)),
    ]
    store.apply([item, FeatureView(name="e", entities=[item], schema=schema, source=source, ttl=timedelta(0))])
    return tables, store


def as_of(store, pairs):
    """{(item, day): (version, embedding)} by get_historical_features; labels half a day after `day`."""
    entities = pd.DataFrame([{"item_id": i, "event_timestamp": DAY + timedelta(days=d, hours=12)} for i, d in pairs])
    found = store.get_historical_features(entities, ["e:source_version", "e:embedding"]).to_df()
    days = [(t - DAY).days for t in found["event_timestamp"]]
    return {
        (i, d): None if pd.isna(v) else (int(v), [float(x) for x in e])
        for i, d, v, e in zip(found["item_id"], days, found["source_version"], found["embedding"], strict=True)
    }


def test_duckdb_reads_the_folder_at_every_stage(site):
    tables, store = site
    pairs = [("a", 0), ("a", 1), ("a", 2), ("b", 2), ("zz", 2)]
    assert as_of(store, pairs) == dict.fromkeys(pairs)
    expected = {
        ("a", 0): (1, [1.0, 0.0]),
        ("a", 1): (2, [2.0, 5.0]),
        ("a", 2): (3, [3.0, 0.0]),
        ("b", 2): (1, [1.0, 0.0]),
        ("zz", 2): None,
    }
    tables.append(VIEW, table(row("a", 1, 0), row("b", 1, 0), row("a", 2, 1)), writer="one")
    tables.append(VIEW, table(row("a", 2, 1, encoded=5), row("a", 3, 2)), writer="two")
    tables.append(VIEW, table(row("a", 1, 0), row("a", 3, 2)), writer="replay")
    assert as_of(store, pairs) == expected
    assert compact(tables, VIEW, grace=timedelta(hours=1)).waiting > 0
    assert as_of(store, pairs) == expected
    assert compact(tables, VIEW, grace=timedelta(0)).waiting == 0
    assert as_of(store, pairs) == expected


def test_materialize_takes_the_latest_row_of_a_replayed_table(site):
    tables, store = site
    rows = [row("a", 1, 0), row("a", 2, 1), row("b", 1, 0)]
    tables.append(VIEW, table(*rows), writer="one")
    tables.append(VIEW, table(*rows), writer="replay")
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=3))
    found = store.get_online_features(["e:source_version", "e:codes"], [{"item_id": "a"}, {"item_id": "b"}]).to_dict()
    assert found["source_version"] == [2, 1] and found["codes"] == [bytes([2, 0]), bytes([1, 0])]
