"""Stock Feast on our plug-ins: stores of made-up projects, and a whole site on `feature_repo/`."""

import os
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore, RepoConfig

from moontide import Embeddings, schemas, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.simtier import tier_counts
from moontide.stores.offline import OfflineTables

REPO = Path(__file__).parents[3] / "feature_repo"
SPACES = """
[[space]]
name = "moon"
version = 1
dim = 8
[[space]]
name = "moon"
version = 2
dim = 16
[[simtier]]
space = "moon_v1"
tiers = 10
length = 5
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l5_drop"
item_fields = ["price", "category"]
"""
NOW = datetime.now(UTC).replace(microsecond=123_456)
ITEMS = ["a", "b", "c", "d", "e", "gone"]


def us(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def days(count):
    return NOW - timedelta(days=count)


def rows_of(schema, **columns):
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def sequence_rows(user, sequence, at):
    return rows_of(
        schemas.USER_SEQUENCE,
        user_id=[user],
        event_timestamp=[us(at)],
        created=[us(at)],
        item_ids=[list(sequence.item_ids)],
        actions=[[b.action for b in sequence.behaviours]],
        times=[[b.time for b in sequence.behaviours]],
        sequence_version=[sequence.version],
    )


def frame(item="new", *, vector=None, space_dim=8, event=NOW, version=1, **columns):
    """One row of the embedding view, as a producer would push it."""
    values = np.arange(1, space_dim + 1) if vector is None else vector
    peak = np.abs(values).max()
    codes = np.rint(np.asarray(values, np.float32) / np.float32(peak / 127)).astype(np.int8)
    row = {
        "item_id": item,
        "source_version": version,
        "content_hash": "0" * 32,
        "deleted": False,
        "codes": codes.tobytes(),
        "scale": np.float32(peak / 127),
        "inv_norm": np.float32(1 / np.linalg.norm(codes.astype(np.float64))),
        "embedding": (codes * np.float32(peak / 127)).astype(np.float32),
        "event_timestamp": event,
        "encoded_at": event,
    }
    return pd.DataFrame([row | columns])


class Site:
    """A site of its own: home, live spaces, applied definitions, and six items with a past."""

    now, days, us, frame, sequence_rows = (
        NOW,
        staticmethod(days),
        staticmethod(us),
        staticmethod(frame),
        staticmethod(sequence_rows),
    )

    def __init__(self, root, online_store, environment):
        self.environment = environment
        self.repo = root / "feature_repo"
        shutil.copytree(REPO, self.repo, ignore=shutil.ignore_patterns("__pycache__"))
        (self.repo / "spaces.toml").write_text(SPACES)
        settings = (self.repo / "feature_store.yaml").read_text()
        (self.repo / "feature_store.yaml").write_text(settings.replace("LmdbOnlineStore\n", f"{online_store}\n", 1))
        self.live = load_spaces(self.repo / "spaces.toml")
        self.space = self.live.space("moon_v1")
        self.spec = self.live.simtiers[0]
        self.offline = OfflineTables(root / "home" / "offline")

    def feast(self, *arguments):
        command = [str(Path(sys.executable).with_name("feast")), "-c", str(self.repo), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ | self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def open(self):
        return FeatureStore(str(self.repo))

    def packed(self, store):
        return store._get_provider().online_store.packed(store.config)

    def append(self, view, rows):
        self.offline.append(view, rows, writer="test")

    def fill(self):
        """Items as of ten days ago; `a` and `b` change, `gone` is deleted; `a` is encoded again with nothing new known."""
        rng = np.random.default_rng(0)
        vectors = Embeddings.from_float(self.space, rng.normal(size=(len(ITEMS), 8)), ids=ITEMS)
        changed = Embeddings.from_float(self.space, rng.normal(size=(2, 8)), ids=["a", "b"])
        again = Embeddings.from_float(self.space, rng.normal(size=(1, 8)), ids=["a"])
        view = views.embedding_view(self.space)
        for batch, version, at, encoded, deleted in (
            (vectors, 1, days(10), days(9), None),
            (changed, 2, days(4), days(3), None),
            (again, 2, days(4), days(1), None),
            (Embeddings.absent(self.space, 1, ids=["gone"]), 3, days(2), days(2), np.array([True])),
        ):
            rows = embedding_rows(
                batch,
                source_version=version,
                event_timestamp=us(at),
                encoded_at=us(encoded),
                content_known_at=us(at),
                content_hash=[f"{version:032x}"] * len(batch),
                deleted=deleted,
            )
            self.append(view, rows)
        self.vectors = dict(
            zip([*ITEMS, "a", "b", "a"], np.concatenate([b.to_float() for b in (vectors, changed, again)]), strict=True)
        )
        self._fill_items()
        self._fill_user()

    def _fill_items(self):
        count = len(ITEMS)
        for version, at, prices in ((1, days(10), [1.5, 2.5, 3.5, None, 5.5, 6.5]), (2, days(4), [10.5] * 6)):
            self.append(
                views.item_features(),
                rows_of(
                    schemas.ITEM_FEATURES,
                    item_id=ITEMS,
                    source_version=[version] * count,
                    event_timestamp=[us(at)] * count,
                    created=[us(at)] * count,
                    deleted=[version == 2 and i == "gone" for i in ITEMS],
                    price=prices,
                    category=["x", "y", None, "x", "y", "z"],
                    has_image=[True] * count,
                    has_text=[False] * count,
                ).slice(0, count if version == 1 else None),
            )

    def _fill_user(self):
        self.history = [Behaviour(us(days(9 - n)), item, "click") for n, item in enumerate("abcdea")]
        sequence = BehaviourSequence().merge(self.history, length=1_000)
        self.append(views.user_sequence(), sequence_rows("u1", sequence, days(3)))
        with_vectors = {i: self.vectors[i] for i in ITEMS if i != "gone"}
        embed = lambda ids: Embeddings.from_float(self.space, np.stack([with_vectors[i] for i in ids]), ids=ids)  # noqa: E731
        recent = [b.item_id for b in self.history[-self.spec.length :]]
        tiers = tier_counts(embed(["a", "b", "c"]), embed(recent), self.spec)
        self.tiers = {"a": tiers.counts[0], "b": tiers.counts[1], "c": tiers.counts[2]}
        at = {"a": days(1), "b": days(1), "c": days(8)}
        rows = rows_of(
            schemas.USER_ITEM_SIMTIER,
            user_id=["u1"] * 3,
            item_id=list("abc"),
            event_timestamp=[us(at[i]) for i in "abc"],
            created=[us(at[i]) for i in "abc"],
            counts=tiers.counts.tolist(),
            missing=tiers.missing.tolist(),
            sequence_version=[sequence.version] * 3,
            history_digest=["d"] * 3,
            computed_at=[us(at[i]) for i in "abc"],
        )
        self.append(views.simtier_view(self.spec), rows)


@pytest.fixture(scope="package", params=["LmdbOnlineStore", "RedisOnlineStore"])
def site(request, tmp_path_factory):
    """One per plug-in, shared: applied by the command line, filled, materialized. Its environment is set by `store`."""
    root = tmp_path_factory.mktemp("site")
    environment = {"MOONTIDE_HOME": str(root / "home"), "MOONTIDE_LMDB_SYNC": "false"}
    if request.param == "RedisOnlineStore":
        environment["MOONTIDE_REDIS_URL"] = request.getfixturevalue("redis_url").removesuffix("/0") + "/7"
    made = Site(root, request.param, environment)
    made.feast("apply")
    made.fill()
    made.feast("materialize", days(30).isoformat(), NOW.isoformat())
    return made


@pytest.fixture
def store(site, monkeypatch):
    """A stock FeatureStore on the site."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    return site.open()


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
