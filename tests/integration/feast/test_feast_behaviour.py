"""What Feast expects of an online store, and what ours adds, on views that are not moontide's."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_source import PushMode
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.integration
FRESH = itertools.count(1)
NOW = datetime.now(UTC).replace(microsecond=0)
DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)


def frame(ids, rates, at=NOW, created=NOW):
    ids = list(ids)
    return pd.DataFrame({"driver_id": ids, "rate": rates, "event_timestamp": [at] * len(ids), "created": [created] * len(ids)})


def view(parquet, name="stats", ttl=None, data=None, features=(("rate", Float32),), push=False):
    source = FileSource(
        name=f"{name}_source",
        path=parquet(frame([0], [0.0]) if data is None else data),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    return FeatureView(
        name=name,
        entities=[DRIVER],
        schema=[Field(name="driver_id", dtype=Int64), *(Field(name=n, dtype=t) for n, t in features)],
        source=PushSource(name=f"{name}_push", batch_source=source) if push else source,
        ttl=ttl,
    )


def read(store, ids, features=("stats:rate",), **options):
    return store.get_online_features(features=list(features), entity_rows=[{"driver_id": i} for i in ids], **options)


def key(**parts):
    values = [Value(int64_val=v) if isinstance(v, int) else Value(string_val=v) for v in parts.values()]
    return EntityKey(join_keys=list(parts), entity_values=values)


def online(store):
    return store._get_provider().online_store


@pytest.fixture
def store(feast_store, parquet):
    store = feast_store()
    store.apply([DRIVER, view(parquet)])
    return store


class TestReadAndWrite:
    def test_values_come_back_in_the_order_asked_for_with_repeats_and_nulls_for_strangers(self, store):
        store.write_to_online_store("stats", frame([1, 2, 3], [0.1, 0.2, 0.3]))
        got = read(store, [3, 9, 1, 3]).to_dict()
        assert got["driver_id"] == [3, 9, 1, 3]
        assert got["rate"] == [pytest.approx(0.3), None, pytest.approx(0.1), pytest.approx(0.3)]

    def test_one_row_and_no_rows(self, store):
        store.write_to_online_store("stats", frame([1], [0.5]))
        assert read(store, [1]).to_dict()["rate"] == [0.5]
        stats = store.get_feature_view("stats")
        online(store).online_write_batch(store.config, stats, [], None)
        assert online(store).online_read(store.config, stats, [], ["rate"]) == []

    def test_materialize_reads_the_latest_of_each_entity(self, feast_store, parquet):
        store = feast_store()
        history = pd.concat([frame([1, 2], [0.1, 0.2], NOW - timedelta(hours=2)), frame([1], [0.9], NOW - timedelta(hours=1))])
        store.apply([DRIVER, view(parquet, data=history)])
        store.materialize(NOW - timedelta(days=1), NOW)
        assert read(store, [1, 2]).to_dict()["rate"] == [pytest.approx(0.9), pytest.approx(0.2)]
        store.materialize_incremental(NOW)
        assert read(store, [1, 2]).to_dict()["rate"] == [pytest.approx(0.9), pytest.approx(0.2)]

    def test_views_of_one_entity_do_not_mix(self, feast_store, parquet):
        store = feast_store()
        store.apply([DRIVER, view(parquet), view(parquet, "other")])
        store.write_to_online_store("stats", frame([1], [0.5]))
        store.write_to_online_store("other", frame([1], [0.7]))
        got = read(store, [1], ["stats:rate", "other:rate"], full_feature_names=True).to_dict()
        assert got["stats__rate"] == [0.5]
        assert got["other__rate"] == [pytest.approx(0.7)]

    def test_projects_do_not_mix(self, feast_store, parquet):
        here, there = feast_store(), feast_store()
        for store in (here, there):
            store.apply([DRIVER, view(parquet)])
        here.write_to_online_store("stats", frame([1], [0.5]))
        assert read(there, [1]).to_dict()["rate"] == [None]

    def test_an_aliased_view_reads_by_another_join_key(self, feast_store, parquet):
        store = feast_store()
        stats = view(parquet)
        pairs = [stats.with_name(end).with_join_key_map({"driver_id": f"{end}_id"}) for end in ("origin", "goal")]
        store.apply([DRIVER, stats, FeatureService(name="trip", features=pairs)])
        store.write_to_online_store("stats", frame([1, 2], [0.1, 0.2]))
        rows = [{"origin_id": 1, "goal_id": 2}]
        got = store.get_online_features(store.get_feature_service("trip"), rows, full_feature_names=True).to_dict()
        assert (got["origin__rate"], got["goal__rate"]) == ([pytest.approx(0.1)], [pytest.approx(0.2)])

    def test_a_view_without_entities_has_one_row(self, store, parquet):
        source = FileSource(
            path=parquet(frame([0], [0.0])), timestamp_field="event_timestamp", created_timestamp_column="created"
        )
        store.apply([FeatureView(name="whole", entities=[], schema=[Field(name="share", dtype=Float32)], source=source)])
        rows = frame([0], [0.25]).rename(columns={"rate": "share"}).drop(columns="driver_id")
        store.write_to_online_store("whole", rows)
        assert read(store, [1, 2], ["stats:rate", "whole:share"]).to_dict()["share"] == [0.25, 0.25]

    def test_a_feature_added_later_is_null_in_older_rows(self, store, parquet):
        store.write_to_online_store("stats", frame([1], [0.5]))
        store.apply([view(parquet, features=(("rate", Float32), ("words", Array(String))))])
        got = read(store, [1], ["stats:rate", "stats:words"]).to_dict()
        assert (got["rate"], got["words"]) == ([0.5], [None])

    def test_reading_and_writing_in_an_event_loop(self, store):
        async def both():
            await store.write_to_online_store_async("stats", frame([1], [0.5]))
            return await store.get_online_features_async(["stats:rate"], [{"driver_id": 1}, {"driver_id": 2}])

        assert asyncio.run(both()).to_dict()["rate"] == [0.5, None]

    def test_push(self, feast_store, parquet):
        store = feast_store()
        store.apply([DRIVER, view(parquet, push=True)])
        store.push("stats_push", frame([1], [0.5]), to=PushMode.ONLINE)
        assert read(store, [1]).to_dict()["rate"] == [0.5]


PLAIN = {1: 0.1, 2: 0.5, 3: -7, 5: -7, 8: True, 9: "é\0", 12: b"\x00\xff", 14: 0}
MEMBERS = [field.name for field in Value.DESCRIPTOR.oneofs_by_name["val"].fields]


def fill(message, fields, depth=0):
    """Set every field, two elements each where repeated, found in the message type itself; `depth` ends the recursion."""
    for field in fields:
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            item = field.message_type.fields_by_name["value"]
            if item.message_type is None:
                target["k"] = PLAIN[item.type]
            elif depth < 2:
                fill(target["k"], item.message_type.fields[:1], depth + 1)
        elif field.message_type is not None:
            if depth < 3:
                for part in [target.add(), target.add()] if field.is_repeated else [target]:
                    part.SetInParent()
                    fill(
                        part, part.DESCRIPTOR.fields[:1] if part.DESCRIPTOR.name == "Value" else part.DESCRIPTOR.fields, depth + 1
                    )
        elif field.is_repeated:
            target.extend([PLAIN[field.type]] * 2)
        else:
            setattr(message, field.name, PLAIN[field.type])
    return message


@pytest.mark.parametrize("member", MEMBERS)
def test_every_value_type_comes_back_as_it_was(store, member):
    value = fill(Value(), [Value.DESCRIPTOR.fields_by_name[member]])
    assert value.WhichOneof("val") == member
    stats = store.get_feature_view("stats")
    rows = [(key(driver_id=1), {"rate": value}, NOW, None), (key(driver_id=2), {"rate": Value()}, NOW, None)]
    online(store).online_write_batch(store.config, stats, rows, None)
    found = online(store).online_read(store.config, stats, [key(driver_id=1), key(driver_id=2)], ["rate"])
    assert found == [(NOW, {"rate": value}), (NOW, {"rate": Value()})]


class TestOrder:
    def test_an_older_event_loses_and_a_newer_wins(self, store):
        store.write_to_online_store("stats", frame([1], [0.5]))
        store.write_to_online_store("stats", frame([1], [0.1], NOW - timedelta(seconds=1)))
        assert read(store, [1]).to_dict()["rate"] == [0.5]
        store.write_to_online_store("stats", frame([1], [0.75], NOW + timedelta(microseconds=1)))
        assert read(store, [1]).to_dict()["rate"] == [0.75]

    def test_created_breaks_ties_of_one_event_time(self, store):
        store.write_to_online_store("stats", frame([1], [0.5]))
        store.write_to_online_store("stats", frame([1], [0.75], created=NOW + timedelta(seconds=1)))
        store.write_to_online_store("stats", frame([1], [0.25], created=NOW - timedelta(seconds=1)))
        assert read(store, [1]).to_dict()["rate"] == [0.75]

    def test_a_naive_time_is_utc(self, store):
        stats = store.get_feature_view("stats")
        naive = NOW.replace(tzinfo=None)
        online(store).online_write_batch(
            store.config, stats, [(key(driver_id=1), {"rate": Value(float_val=1)}, naive, None)], None
        )
        assert online(store).online_read(store.config, stats, [key(driver_id=1)])[0][0] == NOW

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        writes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2)), max_size=12),
        cuts=st.lists(st.integers(0, 12), max_size=3),
    )
    def test_any_order_and_any_split_ends_in_the_highest_write(self, store, writes, cuts):
        stats, salt = store.get_feature_view("stats"), next(FRESH)
        rows = [
            (
                key(driver_id=salt * 10 + d),
                {"rate": Value(int64_val=event * 3 + c)},
                NOW + timedelta(seconds=event),
                NOW + timedelta(seconds=c),
            )
            for d, event, c in writes
        ]
        edges = sorted({0, len(rows), *(min(c, len(rows)) for c in cuts)})
        for start, stop in zip(edges, edges[1:], strict=False):
            online(store).online_write_batch(store.config, stats, rows[start:stop], None)
        expected = {d: max(event * 3 + c for x, event, c in writes if x == d) for d, _, _ in writes}
        found = online(store).online_read(store.config, stats, [key(driver_id=salt * 10 + d) for d in range(4)], ["rate"])
        assert {d: values["rate"].int64_val for d, (_, values) in enumerate(found) if values} == expected


class TestTimeToLive:
    @pytest.mark.parametrize(("ttl", "served"), [(timedelta(hours=1), None), (timedelta(hours=3), 0.5), (timedelta(0), 0.5)])
    def test_an_expired_row_keeps_its_time_and_loses_its_value(self, feast_store, parquet, ttl, served):
        store = feast_store()
        store.apply([DRIVER, view(parquet, ttl=ttl)])
        at = NOW - timedelta(hours=2)
        store.write_to_online_store("stats", frame([1], [0.5], at))
        got = read(store, [1, 2])
        assert got.to_dict()["rate"] == [served, None]
        assert got.to_dict(include_event_timestamps=True)["rate__ts"] == [int(at.timestamp()), 0]


class TestRemoval:
    def test_apply_never_deletes_unless_told_to(self, feast_store, parquet):
        for options, kept in (({}, 0.5), ({"delete_dropped_views": True}, None)):
            store = feast_store(**options)
            stats, other = view(parquet), view(parquet, "other")
            store.apply([DRIVER, stats, other])
            store.write_to_online_store("stats", frame([1], [0.5]))
            store.write_to_online_store("other", frame([1], [0.25]))
            store.apply([other], objects_to_delete=[stats], partial=False)
            store.apply([DRIVER, stats, other])
            assert read(store, [1]).to_dict()["rate"] == [kept]
            assert read(store, [1], ["other:rate"]).to_dict()["rate"] == [0.25]

    def test_teardown_removes_this_project_only(self, feast_store, parquet):
        gone, stays = feast_store(), feast_store()
        for store in (gone, stays):
            store.apply([DRIVER, view(parquet)])
            store.write_to_online_store("stats", frame([1], [0.5]))
        gone.teardown()
        assert read(stays, [1]).to_dict()["rate"] == [0.5]
        gone.apply([DRIVER, view(parquet)])
        assert read(gone, [1]).to_dict()["rate"] == [None]

    def test_an_entity_is_deleted_for_good(self, store):
        store.write_to_online_store("stats", frame([1, 2], [0.5, 0.75]))
        stats = store.get_feature_view("stats")
        assert online(store).delete_entities(store.config, stats, [key(driver_id=1), key(driver_id=7)]) == 1
        assert read(store, [1, 2]).to_dict()["rate"] == [None, 0.75]
        store.write_to_online_store("stats", frame([1], [0.25], NOW - timedelta(days=1)))
        assert read(store, [1]).to_dict()["rate"] == [0.25]


def test_keys_are_told_apart_by_type_value_and_name_but_not_by_the_order_of_join_keys(store):
    stats = store.get_feature_view("stats")
    keys = [key(driver_id=1), key(driver_id="1"), key(a=1, b=2), key(a=2, b=1), key(a="x" * 300, b="it's \0")]
    rows = [(k, {"rate": Value(int64_val=n)}, NOW, None) for n, k in enumerate(keys)]
    online(store).online_write_batch(store.config, stats, rows, None)
    found = online(store).online_read(store.config, stats, [*keys, key(b=2, a=1)], ["rate"])
    assert [values["rate"].int64_val for _, values in found] == [0, 1, 2, 3, 4, 2]


def test_the_store_opens_again_after_close(store):
    store.write_to_online_store("stats", frame([1], [0.5]))
    asyncio.run(online(store).close())
    asyncio.run(online(store).initialize(store.config))
    assert np.float32(read(store, [1]).to_dict()["rate"][0]) == np.float32(0.5)
