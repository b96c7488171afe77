"""Where the watching process looks: our stores, or a peer's. Each method takes probes and says of each whether it is there."""

import json
from pathlib import Path

import numpy as np

from benchmarks._freshness_events import DATA
from moontide.live import load_spaces
from moontide.sequences import Behaviour
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import embedding_view, simtier_view, user_sequence

FOUND = 0.999


def open_reader(config):
    return {"moontide": OurReader, "feast": FeastReader, "lmdb": PlainReader}[config["system"]](config)


class Search:
    """Whether the vector of the probe's new content, encoded here, finds its item first."""

    def __init__(self, config, readable):
        self.client = None
        self.uri = config.get("index")
        self.readable = readable
        self.collection = config["collection"]
        self.items = {i["item_id"]: i for i in json.loads(Path(config["searched"]).read_text())}
        self.space = load_spaces(Path(config["spaces"])).live("moon_v2")
        self.vectors, self.written = {}, set()

    def warm(self, probes):
        wanted = [p for p in probes if p["kind"] == "search"]
        if not wanted or not self.uri:
            return
        # Most watchers search for nothing and start sooner without these.
        from pymilvus import MilvusClient

        from encoders import Encoder, ImageLoader, Item

        self.client = MilvusClient(self.uri)
        encoder = Encoder.load(self.space.artifact, threads=1, images=ImageLoader(DATA))
        items = [Item(**{**self.items[p["entity"]], "item_id": p["entity"], "title": p["title"]}) for p in wanted]
        for start in range(0, len(items), 32):
            made = encoder.encode(items[start : start + 32])
            for probe, codes in zip(wanted[start : start + 32], made.codes, strict=True):
                self.vectors[probe["entity"], probe["version"]] = codes.astype(np.float32)
        self._hits(list(self.vectors.values())[:1])

    def __call__(self, probes):
        """Items that cannot be read yet are not searched for: the index follows the store, and a search is not free."""
        late = [p for p in probes if (p["entity"], p["version"]) not in self.written]
        self.written |= {(p["entity"], p["version"]) for p, there in zip(late, self.readable(late), strict=True) if there}
        asked = [p for p in probes if (p["entity"], p["version"]) in self.written]
        hits = self._hits([self.vectors[p["entity"], p["version"]] for p in asked]) if asked else []
        found = {p["entity"] for p, h in zip(asked, hits, strict=True) if h and self._is(h[0], p)}
        return [p["entity"] in found for p in probes]

    def _is(self, hit, probe):
        return hit["item_id"] == probe["entity"] and hit["distance"] >= FOUND

    def _hits(self, vectors):
        return self.client.search(self.collection, data=vectors, limit=1, output_fields=["item_id"], consistency_level="Strong")


class OurReader:
    def __init__(self, config):
        self.store = online_store(Settings(home=Path(config["home"])))
        live = load_spaces(Path(config["spaces"]))
        self.view = embedding_view(live.space("moon_v2"))
        self.spec = live.simtiers[0]
        self.tiers, self.sequences = simtier_view(self.spec), user_sequence(self.spec.sequence)
        self.search = Search(config, self.readable)

    def warm(self, probes):
        self.search.warm(probes)
        self.readable(probes[:1])

    def readable(self, probes):
        ids = list(dict.fromkeys(p["entity"] for p in probes))
        if not ids:
            return []
        versions = dict(zip(ids, self.store.heads(self.view, ids).source_version.tolist(), strict=True))
        return [versions[p["entity"]] >= p["version"] for p in probes]

    def tier(self, probes):
        """The stored row was computed from a sequence that holds the behaviour, and that sequence is the current one."""
        users = [p["entity"] for p in probes]
        sequences = self.store.read_sequences(self.sequences, users)
        rows = self.store.read_columns(self.tiers, [(p["entity"], p["other"]) for p in probes], ["sequence_version"])
        versions = rows["sequence_version"].to_pylist()
        return [
            any(isinstance(b, Behaviour) and b.time == p["version"] for b in s.behaviours) and s.version == v
            for p, s, v in zip(probes, sequences, versions, strict=True)
        ]


class FeastReader:
    def __init__(self, config):
        from feast import FeatureStore

        self.store = FeatureStore(repo_path=config["feast"])
        self.search = Search(config, self.readable)

    def warm(self, probes):
        self.search.warm(probes)
        self.readable(probes[:1])

    def readable(self, probes):
        rows = [{"item_id": p["entity"]} for p in probes]
        got = self.store.get_online_features(features=["item_embedding:source_version"], entity_rows=rows).to_dict()
        return [v is not None and v >= p["version"] for p, v in zip(probes, got["source_version"], strict=True)]


class PlainReader:
    def __init__(self, config):
        from benchmarks.peers.plain_lmdb import PlainLmdb

        self.store = PlainLmdb(Path(config["lmdb"]))
        self.search = Search(config, self.readable)

    def warm(self, probes):
        self.search.warm(probes)

    def readable(self, probes):
        got = self.store.versions([p["entity"] for p in probes])
        return [v is not None and v >= p["version"] for p, v in zip(probes, got, strict=True)]
