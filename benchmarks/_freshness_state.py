"""The stores of the peers, filled with what ours hold and compared with it.

``python -m benchmarks._freshness_state fill|check CONFIG``
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from feast import FeatureStore
from pymilvus import MilvusClient

from benchmarks.peers.common import cosines, feast_repository, make_collection, milvus_rows
from benchmarks.peers.plain_lmdb import PlainLmdb
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import embedding_view

#: Encoding the same item in another batch may change a code in a row of a thousand.
SAME = 0.9999


def current(config):
    """(versions, float vectors) of our records of `config["ids"]`."""
    space = load_spaces(Path(config["spaces"])).space("moon_v2")
    store = online_store(Settings(home=Path(config["home"])))
    heads, vectors = store.heads(embedding_view(space), config["ids"]), store.read_embeddings(space, config["ids"])
    store.close()
    return heads.source_version, vectors.to_float()


def fill(config):
    """A Feast repository, a plain LMDB file and two collections with our current rows."""
    ids = config["ids"]
    versions, vectors = current(config)
    feast = feast_repository(Path(config["feast"]))
    stamps = pd.to_datetime([config["stamps"][i] for i in ids], unit="us", utc=True)
    frame = pd.DataFrame({"item_id": ids, "embedding": list(vectors), "source_version": versions, "event_timestamp": stamps})
    for start in range(0, len(frame), 5_000):
        feast.write_to_online_store("item_embedding", df=frame.iloc[start : start + 5_000])
    PlainLmdb(Path(config["lmdb"])).write(ids, versions.tolist(), vectors)
    for collection in ("hand_written", "quix"):
        client = make_collection(config["index"], collection)
        for start in range(0, len(ids), 1_000):
            part = slice(start, start + 1_000)
            client.upsert(collection, milvus_rows(ids[part], versions[part], vectors[part]))
        client.flush(collection)


def check(config):
    """Ends with an error where a peer holds other versions or vectors than we do."""
    ids = config["ids"]
    versions, vectors = current(config)
    for name, where in config["peers"].items():
        theirs, theirs_at = online(where, ids)
        fields = ["item_id", "version", "vector"]
        found = MilvusClient(where["index"]).get(where["collection"], ids=ids, output_fields=fields, consistency_level="Strong")
        rows = {row["item_id"]: row for row in found}
        indexed = np.array([rows[i]["vector"] for i in ids], np.float32)
        late = [i for i, a, v in zip(ids, theirs_at, versions, strict=True) if a != v or rows[i]["version"] != v]
        if late:
            raise SystemExit(f"{name}: other versions than ours of {len(late)} of {len(ids)} items, {late[:3]}")
        worst = min(cosines(theirs, vectors).min(), cosines(indexed, vectors).min())
        if worst < SAME:
            raise SystemExit(f"{name}: other vectors than ours, cosine {worst:.6f} at worst")


def online(where, ids):
    """(vectors, versions) of a peer's online store."""
    if "feast" not in where:
        plain = PlainLmdb(where["lmdb"])
        return plain.vectors(ids), plain.versions(ids)
    features = ["item_embedding:embedding", "item_embedding:source_version"]
    store = FeatureStore(repo_path=where["feast"])
    got = store.get_online_features(features=features, entity_rows=[{"item_id": i} for i in ids]).to_dict()
    return np.array(got["embedding"], np.float32), got["source_version"]


if __name__ == "__main__":
    {"fill": fill, "check": check}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
