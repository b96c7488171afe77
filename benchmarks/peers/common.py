"""What both peers share: an event as an item, the encoder, a Milvus collection, a Feast repository."""

import json

import numpy as np
from pymilvus import DataType, MilvusClient

from benchmarks._freshness_events import DATA
from encoders import Encoder, ImageLoader, Item

DIM = 128


def load_encoder(artifact, threads=1):
    """The same encoder with as many threads as the consumer gives it."""
    return Encoder.load(artifact, threads=threads, images=ImageLoader(DATA))


def item_of(event):
    """An event, parsed and taken at its word."""
    content = event["content"]
    fields = {name: content.get(name) for name in ("title", "description", "attributes", "image")}
    return Item(event["item_id"], **fields)


def parsed(value):
    return json.loads(value)


def make_collection(uri, collection):
    """An empty collection with the index milvus-lite is good at."""
    client = MilvusClient(uri)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("item_id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("version", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    index = client.prepare_index_params()
    index.add_index("vector", metric_type="COSINE", index_type="FLAT", params={})
    client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")
    client.load_collection(collection)
    return client


def milvus_rows(ids, versions, vectors):
    return [{"item_id": i, "version": int(v), "vector": x} for i, v, x in zip(ids, versions, vectors, strict=True)]


def cosines(left, right):
    """(B,) cosines of two (B, D) matrices, row by row."""
    dots = (left * right).sum(axis=1)
    return dots / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def feast_repository(folder):
    """A Feast repository with one view that is pushed to, on Feast's default online store, SQLite."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
    from feast.types import Array, Float32, Int64

    folder.mkdir(parents=True)
    source = folder / "empty.parquet"
    now = pd.Timestamp.now(tz="UTC")
    pd.DataFrame({"item_id": ["x"], "embedding": [[0.0] * DIM], "source_version": [0], "event_timestamp": [now]}).to_parquet(
        source
    )
    (folder / "feature_store.yaml").write_text(
        f"project: peer\nregistry: {folder}/registry.db\nprovider: local\n"
        f"online_store:\n  type: sqlite\n  path: {folder}/online.db\noffline_store:\n  type: dask\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(folder))
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    pushed = PushSource(name="item_push", batch_source=FileSource(path=str(source), timestamp_field="event_timestamp"))
    view = FeatureView(
        name="item_embedding",
        entities=[item],
        schema=[Field(name="embedding", dtype=Array(Float32)), Field(name="source_version", dtype=Int64)],
        source=pushed,
    )
    store.apply([item, pushed, view])
    return store


__all__ = ["cosines", "feast_repository", "item_of", "load_encoder", "make_collection", "milvus_rows", "parsed"]
