"""Writes of stock Feast to moontide's views: the write rule, tombstones, merges, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from feast.data_source import PushMode
from feast.errors import FeatureViewNotFoundException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from moontide import Misconfigured, Poison, SpaceMismatch, views
from moontide.sequences import Behaviour, BehaviourSequence

pytestmark = pytest.mark.integration
VIEW = "item_embedding__moon_v1"


def online(store, features, rows, **options):
    return store.get_online_features(features=features, entity_rows=rows, **options).to_dict()


class TestFence:
    def read(self, store, item):
        got = online(store, [f"{VIEW}:source_version", f"{VIEW}:embedding"], [{"item_id": item}])
        return got["source_version"][0], got["embedding"][0]

    @pytest.mark.parametrize("path", ["push", "write_to_online_store"])
    def test_a_lower_version_loses_even_with_a_newer_time_and_a_higher_one_wins_with_an_older(self, site, store, path):
        def write(data):
            if path == "push":
                store.push(f"{VIEW}_push", data, to=PushMode.ONLINE)
            else:
                store.write_to_online_store(VIEW, data)

        item, other = f"{path}-1", np.arange(8, 0, -1)
        write(site.frame(item, version=5, event=site.days(2)))
        first = self.read(store, item)
        assert first[0] == 5
        write(site.frame(item, version=4, event=site.now, vector=other))
        assert self.read(store, item) == first
        write(site.frame(item, version=5, event=site.days(3), vector=other))
        assert self.read(store, item) == first
        write(site.frame(item, version=6, event=site.days(3), vector=other))
        assert self.read(store, item)[0] == 6

    def test_a_batch_keeps_the_highest_of_an_item(self, site, store):
        rows = pd.concat([site.frame("batch", version=v) for v in (2, 9, 4)], ignore_index=True)
        store.write_to_online_store(VIEW, rows)
        assert self.read(store, "batch")[0] == 9

    def test_a_tombstone_needs_no_values_and_resists_what_it_outranks(self, site, store):
        store.write_to_online_store(VIEW, site.frame("doomed", version=1))
        gone = {"deleted": True, "codes": None, "scale": None, "inv_norm": None, "embedding": None, "content_hash": None}
        batch = pd.concat([site.frame("beside"), site.frame("doomed", version=2, **gone)], ignore_index=True)
        store.write_to_online_store(VIEW, batch)
        assert self.read(store, "beside")[0] == 1
        assert self.read(store, "doomed") == (None, None)
        store.write_to_online_store(VIEW, site.frame("doomed", version=1, event=site.now))
        assert self.read(store, "doomed") == (None, None)
        store.write_to_online_store(VIEW, site.frame("doomed", version=3))
        assert self.read(store, "doomed")[0] == 3

    def test_a_write_marks_the_item_for_the_index(self, site, store):
        store.write_to_online_store(VIEW, site.frame("marked"))
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
        rows = pd.concat([site.frame("fine-but-refused"), site.frame(**{"item": "bad", **columns})], ignore_index=True)
        with pytest.raises(error, match=says):
            store.write_to_online_store(VIEW, rows)
        assert site.packed(store).count(views.embedding_view(site.space)) == before

    def test_pushed_behaviours_merge_in_any_order(self, site, store):
        old, new = (Behaviour(site.us(site.days(n)), i, "buy") for n, i in ((5, "a"), (1, "b")))
        for behaviour in (new, old, new):
            part = BehaviourSequence((behaviour,))
            data = site.sequence_rows("pushed", part, site.days(1)).to_pandas()
            store.push("user_sequence_push", data, to=PushMode.ONLINE)
        got = online(store, ["user_sequence:item_ids", "user_sequence:sequence_version"], [{"user_id": "pushed"}])
        expected = BehaviourSequence((old, new))
        assert got["item_ids"] == [["a", "b"]]
        assert got["sequence_version"] == [expected.version]


class TestLifeOfASpace:
    def test_an_older_checkout_applies_without_wiping_a_live_space(self, site, store):
        green = "item_embedding__moon_v2"
        store.write_to_online_store(green, site.frame("kept", space_dim=16))
        view = store.get_feature_view(green)
        store.apply([], objects_to_delete=[view], partial=False)
        with pytest.raises(FeatureViewNotFoundException):
            site.open().get_feature_view(green)
        store.apply([view])
        assert online(site.open(), [f"{green}:source_version"], [{"item_id": "kept"}])["source_version"] == [1]

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
