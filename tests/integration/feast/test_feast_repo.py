"""`feature_repo/` under stock Feast: the command line, materialize, online and historical reads, push; against the packed reads."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.data_source import PushMode
from feast.errors import FeatureViewNotFoundException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from moontide import Embeddings, Misconfigured, Poison, SpaceMismatch, schemas, views
from moontide.live import load_spaces
from moontide.records import embedding_rows
from moontide.sequences import Behaviour, BehaviourSequence
from moontide.simtier import tier_counts
from moontide.stores.base import Status
from moontide.stores.offline import OfflineTables
from serving import RankingClient

pytestmark = pytest.mark.integration
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
VIEW = "item_embedding__moon_v1"


def us(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def days(count):
    return NOW - timedelta(days=count)


def rows_of(schema, **columns):
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


class Site:
    """A site of its own: home, live spaces, applied definitions, and six items with a past."""

    def __init__(self, root, online_store):
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def store(self):
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


@pytest.fixture(scope="module", params=["LmdbOnlineStore", "RedisOnlineStore"])
def site(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOONTIDE_HOME", str(root / "home"))
        patch.setenv("MOONTIDE_LMDB_SYNC", "false")
        if request.param == "RedisOnlineStore":
            patch.setenv("MOONTIDE_REDIS_URL", request.getfixturevalue("redis_url"))
        made = Site(root, request.param)
        made.feast("apply")
        made.fill()
        if request.param == "LmdbOnlineStore":
            made.feast("materialize", days(30).isoformat(), NOW.isoformat())
        else:
            made.store.materialize(days(30), NOW)
        yield made


@pytest.fixture
def store(site):
    return site.store


def online(store, features, rows, **options):
    return store.get_online_features(features=features, entity_rows=rows, **options).to_dict()


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


class TestMaterialized:
    def test_online_vectors_are_the_packed_vectors(self, site, store):
        ids = ["e", "a", "nobody", "gone", "a"]
        got = online(store, [f"{VIEW}:embedding", f"{VIEW}:source_version", f"{VIEW}:codes"], [{"item_id": i} for i in ids])
        packed = site.packed(store).read_embeddings(site.space, ids)
        assert packed.present.tolist() == [True, True, False, False, True]
        for n, item in enumerate(ids):
            if packed.present[n]:
                assert np.array_equal(np.float32(got["embedding"][n]), packed.to_float()[n])
                assert np.array_equal(np.float32(got["embedding"][n]), site.vectors[item])
                assert got["codes"][n] == packed.codes[n].tobytes()
            else:
                assert got["embedding"][n] is None
                assert got["source_version"][n] is None

    def test_online_columns_are_the_packed_columns(self, site, store):
        ids = ["a", "gone", "d", "nobody"]
        got = online(store, ["item_features:price", "item_features:category"], [{"item_id": i} for i in ids])
        packed = site.packed(store).read_columns(views.item_features(), ids, ["price", "category"])
        assert got["price"] == packed["price"].to_pylist() == [10.5, None, 10.5, None]
        assert got["category"] == packed["category"].to_pylist() == ["x", None, "x", None]

    def test_a_tombstone_keeps_its_time(self, store):
        got = store.get_online_features([f"{VIEW}:embedding"], [{"item_id": "gone"}]).to_dict(include_event_timestamps=True)
        assert got["embedding"] == [None]
        assert got["embedding__ts"] == [int(days(2).timestamp())]

    def test_the_sequence_and_its_version(self, site, store):
        fields = ["item_ids", "actions", "times", "sequence_version"]
        got = online(store, [f"user_sequence:{f}" for f in fields], [{"user_id": "u1"}, {"user_id": "u2"}])
        expected = BehaviourSequence().merge(site.history, length=1_000)
        assert got["item_ids"] == [list("abcdea"), None]
        assert got["times"][0] == [b.time for b in site.history]
        assert got["sequence_version"] == [expected.version, None]
        assert site.packed(store).read_sequences(views.user_sequence(), ["u1"]) == [expected]

    def test_stored_tiers_expire_after_their_ttl(self, site, store):
        view = site.spec.view
        got = online(store, [f"{view}:counts", f"{view}:missing"], [{"user_id": "u1", "item_id": i} for i in "abcz"])
        assert got["counts"][:2] == [site.tiers["a"].tolist(), site.tiers["b"].tolist()]
        assert got["counts"][2:] == [None, None]
        spec = views.simtier_view(site.spec)
        status = site.packed(store).read_columns(spec, [("u1", "c"), ("u1", "z")], ["counts"])["status"].to_pylist()
        assert status == [Status.EXPIRED, Status.ABSENT]

    def test_the_service_gives_what_the_ranking_client_gives(self, site, store):
        items = ["a", "b", "gone", "nobody"]
        rows = [{"user_id": "u1", "item_id": i} for i in items]
        stock = store.get_online_features(store.get_feature_service("ctr_v1"), rows).to_dict()
        with RankingClient.from_repo(site.repo) as client:
            ours = client.features("u1", items, service="ctr_v1")
        assert stock["price"] == ours["price"].to_pylist()
        assert stock["category"] == ours["category"].to_pylist()
        for n, vector in enumerate(ours["embedding"].to_pylist()):
            assert stock["embedding"][n] == vector
        assert stock["counts"][:2] == ours["counts"].to_pylist()[:2]
        assert stock["missing"][:2] == ours["missing"].to_pylist()[:2]

    def test_an_id_that_cannot_be_one_is_absent(self, store):
        assert online(store, [f"{VIEW}:embedding"], [{"item_id": "it's"}, {"item_id": ""}])["embedding"] == [None, None]

    def test_materialize_again_changes_nothing(self, site, store):
        before = site.packed(store).read_records(views.embedding_view(site.space), ITEMS)
        store.materialize(days(30), NOW)
        assert site.packed(store).read_records(views.embedding_view(site.space), ITEMS).equals(before)


class TestHistorical:
    LABELS = [("a", 11), ("a", 10), ("a", 5), ("a", 4), ("a", 0), ("b", 3.5), ("gone", 2.5), ("gone", 1), ("nobody", 1)]

    def test_vectors_are_those_known_at_the_label(self, site, store):
        labels = pd.DataFrame(
            {
                "item_id": [i for i, _ in self.LABELS],
                "event_timestamp": [days(d) for _, d in self.LABELS],
                "label": range(len(self.LABELS)),
            }
        )
        features = [f"{VIEW}:embedding", f"{VIEW}:source_version", f"{VIEW}:deleted", "item_features:price"]
        got = store.get_historical_features(entity_df=labels, features=features).to_df().sort_values("label")
        assert len(got) == len(self.LABELS)
        table = pa.concat_tables(site.offline.scan(views.embedding_view(site.space))).to_pylist()
        for (item, age), row in zip(self.LABELS, got.to_dict("records"), strict=True):
            known = [r for r in table if r["item_id"] == item and r["event_timestamp"] <= days(age)]
            if not known:
                assert row["source_version"] is None or np.isnan(row["source_version"])
                continue
            expected = max(known, key=lambda r: (r["event_timestamp"], r["encoded_at"]))
            assert row["source_version"] == expected["source_version"]
            assert row["deleted"] == expected["deleted"]
            assert np.array_equal(np.float32(row["embedding"]), np.float32(expected["embedding"]))

    def test_the_service_joins_both_entities_within_the_ttl(self, site, store):
        labels = pd.DataFrame(
            {"user_id": "u1", "item_id": list("abc"), "event_timestamp": [NOW, days(1.5), NOW], "label": [1.0, 0.0, 0.0]}
        )
        got = store.get_historical_features(entity_df=labels, features=store.get_feature_service("ctr_v1")).to_df()
        counts = got.set_index("item_id")["counts"].to_dict()
        assert counts["a"].tolist() == site.tiers["a"].tolist()
        assert counts["b"] is None
        assert counts["c"] is None


class TestFence:
    def read(self, store, item):
        got = online(store, [f"{VIEW}:source_version", f"{VIEW}:embedding"], [{"item_id": item}])
        return got["source_version"][0], got["embedding"][0]

    @pytest.mark.parametrize("path", ["push", "write_to_online_store"])
    def test_a_lower_version_loses_even_with_a_newer_time_and_a_higher_one_wins_with_an_older(self, store, path):
        def write(data):
            if path == "push":
                store.push(f"{VIEW}_push", data, to=PushMode.ONLINE)
            else:
                store.write_to_online_store(VIEW, data)

        item, other = f"{path}-1", np.arange(8, 0, -1)
        write(frame(item, version=5, event=days(2)))
        first = self.read(store, item)
        assert first[0] == 5
        write(frame(item, version=4, event=NOW, vector=other))
        assert self.read(store, item) == first
        write(frame(item, version=5, event=days(3), vector=other))
        assert self.read(store, item) == first
        write(frame(item, version=6, event=days(3), vector=other))
        assert self.read(store, item)[0] == 6

    def test_a_batch_keeps_the_highest_of_an_item(self, store):
        rows = pd.concat([frame("batch", version=v) for v in (2, 9, 4)], ignore_index=True)
        store.write_to_online_store(VIEW, rows)
        assert self.read(store, "batch")[0] == 9

    def test_a_tombstone_needs_no_values_and_resists_what_it_outranks(self, site, store):
        store.write_to_online_store(VIEW, frame("doomed", version=1))
        gone = {"deleted": True, "codes": None, "scale": None, "inv_norm": None, "embedding": None, "content_hash": None}
        batch = pd.concat([frame("beside"), frame("doomed", version=2, **gone)], ignore_index=True)
        store.write_to_online_store(VIEW, batch)
        assert self.read(store, "beside")[0] == 1
        assert self.read(store, "doomed") == (None, None)
        store.write_to_online_store(VIEW, frame("doomed", version=1, event=NOW))
        assert self.read(store, "doomed") == (None, None)
        store.write_to_online_store(VIEW, frame("doomed", version=3))
        assert self.read(store, "doomed")[0] == 3

    def test_a_write_marks_the_item_for_the_index(self, site, store):
        store.write_to_online_store(VIEW, frame("marked"))
        assert "marked" in {mark.item_id for mark in site.packed(store).dirty(site.space, 10_000)}

    @pytest.mark.parametrize(
        ("columns", "error", "says"),
        [
            ({"version": None}, Poison, "source_version"),
            ({"deleted": None}, Poison, "deleted"),
            ({"codes": None}, Poison, "codes"),
            ({"item": "it's"}, Poison, "A-Za-z0-9"),
            ({"codes": b"\x01\x02"}, SpaceMismatch, "8 codes"),
        ],
    )
    def test_bad_rows_are_refused_and_nothing_is_written(self, site, store, columns, error, says):
        before = site.packed(store).count(views.embedding_view(site.space))
        rows = pd.concat([frame("fine-but-refused"), frame(**{"item": "bad", **columns})], ignore_index=True)
        with pytest.raises(error, match=says):
            store.write_to_online_store(VIEW, rows)
        assert site.packed(store).count(views.embedding_view(site.space)) == before

    def test_pushed_behaviours_merge_in_any_order(self, site, store):
        old, new = (Behaviour(us(days(n)), i, "buy") for n, i in ((5, "a"), (1, "b")))
        for behaviour in (new, old, new):
            part = BehaviourSequence((behaviour,))
            data = sequence_rows("pushed", part, days(1)).to_pandas()
            store.push("user_sequence_push", data, to=PushMode.ONLINE)
        got = online(store, ["user_sequence:item_ids", "user_sequence:sequence_version"], [{"user_id": "pushed"}])
        expected = BehaviourSequence((old, new))
        assert got["item_ids"] == [["a", "b"]]
        assert got["sequence_version"] == [expected.version]


class TestLifeOfASpace:
    def test_an_older_checkout_applies_without_wiping_a_live_space(self, site, store):
        green = "item_embedding__moon_v2"
        store.write_to_online_store(green, frame("kept", space_dim=16))
        view = store.get_feature_view(green)
        store.apply([], objects_to_delete=[view], partial=False)
        with pytest.raises(FeatureViewNotFoundException):
            site.store.get_feature_view(green)
        store.apply([view])
        assert online(site.store, [f"{green}:source_version"], [{"item_id": "kept"}])["source_version"] == [1]

    def test_a_view_of_a_space_that_is_not_declared_is_refused(self, site, store):
        view = store.get_feature_view(VIEW)
        view.name = "item_embedding__moon_v9"
        plugin = store._get_provider().online_store
        key = EntityKey(join_keys=["item_id"], entity_values=[Value(string_val="a")])
        with pytest.raises(Misconfigured, match="moon_v9"):
            plugin.online_read(store.config, view, [key])

    def test_feast_with_other_features_under_the_same_name_is_refused(self, store):
        view = store.get_feature_view("item_features")
        view.features = view.features[:-1]
        key = EntityKey(join_keys=["item_id"], entity_values=[Value(string_val="a")])
        with pytest.raises(Misconfigured, match="has_text"):
            store._get_provider().online_store.online_read(store.config, view, [key])

    def test_teardown_of_moontide_views_keeps_their_records(self, site, store):
        plugin = store._get_provider().online_store
        plugin.teardown(store.config, store.list_feature_views(), [])
        assert site.packed(store).read_embeddings(site.space, ["a"]).present.tolist() == [True]
