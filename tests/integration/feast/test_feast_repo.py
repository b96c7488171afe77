"""`feature_repo/` under stock Feast: online and historical reads, against the packed reads and the offline tables."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from moontide import views
from moontide.sequences import BehaviourSequence
from moontide.stores.base import Status
from serving import RankingClient

pytestmark = pytest.mark.integration
ITEMS = ["a", "b", "c", "d", "e", "gone"]
VIEW = "item_embedding__moon_v1"


def online(store, features, rows, **options):
    return store.get_online_features(features=features, entity_rows=rows, **options).to_dict()


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

    def test_a_tombstone_keeps_its_time(self, site, store):
        got = store.get_online_features([f"{VIEW}:embedding"], [{"item_id": "gone"}]).to_dict(include_event_timestamps=True)
        assert got["embedding"] == [None]
        assert got["embedding__ts"] == [int(site.days(2).timestamp())]

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
        store.materialize(site.days(30), site.now)
        assert site.packed(store).read_records(views.embedding_view(site.space), ITEMS).equals(before)


class TestHistorical:
    LABELS = [("a", 11), ("a", 10), ("a", 5), ("a", 4), ("a", 0), ("b", 3.5), ("gone", 2.5), ("gone", 1), ("nobody", 1)]

    def test_vectors_are_those_known_at_the_label(self, site, store):
        labels = pd.DataFrame(
            {
                "item_id": [i for i, _ in self.LABELS],
                "event_timestamp": [site.days(d) for _, d in self.LABELS],
                "label": range(len(self.LABELS)),
            }
        )
        features = [f"{VIEW}:embedding", f"{VIEW}:source_version", f"{VIEW}:deleted", "item_features:price"]
        got = store.get_historical_features(entity_df=labels, features=features).to_df().sort_values("label")
        assert len(got) == len(self.LABELS)
        table = pa.concat_tables(site.offline.scan(views.embedding_view(site.space))).to_pylist()
        for (item, age), row in zip(self.LABELS, got.to_dict("records"), strict=True):
            known = [r for r in table if r["item_id"] == item and r["event_timestamp"] <= site.days(age)]
            if not known:
                assert row["source_version"] is None or np.isnan(row["source_version"])
                continue
            expected = max(known, key=lambda r: (r["event_timestamp"], r["encoded_at"]))
            assert row["source_version"] == expected["source_version"]
            assert row["deleted"] == expected["deleted"]
            assert np.array_equal(np.float32(row["embedding"]), np.float32(expected["embedding"]))

    def test_the_service_joins_both_entities_within_the_ttl(self, site, store):
        labels = pd.DataFrame(
            {
                "user_id": "u1",
                "item_id": list("abc"),
                "event_timestamp": [site.now, site.days(1.5), site.now],
                "label": [1.0, 0.0, 0.0],
            }
        )
        got = store.get_historical_features(entity_df=labels, features=store.get_feature_service("ctr_v1")).to_df()
        counts = got.set_index("item_id")["counts"].to_dict()
        assert counts["a"].tolist() == site.tiers["a"].tolist()
        assert counts["b"] is None
        assert counts["c"] is None
