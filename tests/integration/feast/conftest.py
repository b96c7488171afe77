"""Stock Feast on our plug-ins."""

import uuid

import pandas as pd
import pytest
from feast import FeatureStore, RepoConfig


@pytest.fixture(params=["lmdb", "redis"])
def plugin(request, tmp_path, monkeypatch):
    """`online_store` section of a feature_store.yaml."""
    monkeypatch.setenv("MOONTIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOONTIDE_LMDB_SYNC", "false")
    if request.param == "lmdb":
        return {"type": "moontide.stores.feast_plugin.LmdbOnlineStore", "home": str(tmp_path / "home")}
    return {"type": "moontide.stores.feast_plugin.RedisOnlineStore", "url": request.getfixturevalue("redis_url")}


@pytest.fixture
def feast_store(plugin, tmp_path):
    """`feast_store(project=..., **online_store options)`: a stock FeatureStore of a project of its own."""

    def make(project=None, **options):
        project = project or f"p{uuid.uuid4().hex[:8]}"
        config = RepoConfig(
            project=project,
            provider="local",
            registry=str(tmp_path / f"{project}.db"),
            online_store=plugin | options,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
        )
        return FeatureStore(config=config)

    return make


@pytest.fixture
def parquet(tmp_path):
    """`parquet(frame)`: path of a Parquet file with its rows."""

    def write(frame: pd.DataFrame) -> str:
        path = tmp_path / f"{uuid.uuid4().hex}.parquet"
        frame.to_parquet(path, index=False, coerce_timestamps="us")
        return str(path)

    return write
