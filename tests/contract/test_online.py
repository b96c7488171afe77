"""What `OnlineStore` promises of reads, writes, deletion and lifetimes, over every engine."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from moontide import Embeddings, EmbeddingSpace, schemas, views
from moontide.errors import Misconfigured, Poison, SpaceMismatch
from moontide.order import MAX_AHEAD_US
from moontide.records import embedding_rows
from moontide.schemas import TIMESTAMP
from moontide.simtier import SimTierSpec
from moontide.stores.base import Status, WriteCounts
from moontide.views import ViewKind, ViewSpec

pytestmark = pytest.mark.contract

DIM = 6
SPACE = EmbeddingSpace("moon", 1, DIM, "sha256:" + "a" * 64)
VIEW = views.embedding_view(SPACE)
ITEMS = views.item_features()


def vectors(ids, seed=0, space=SPACE):
    values = np.random.default_rng(seed).normal(size=(len(ids), space.dim)).astype(np.float32)
    return Embeddings.from_float(space, values, ids=ids)


def rows(found, version=1, at=1_000, **more):
    return embedding_rows(found, source_version=version, event_timestamp=at, encoded_at=at, content_known_at=at, **more)


def features(*given):
    blank = {"deleted": False, "price": None, "category": None, "has_image": None, "has_text": None}
    made = [blank | {"event_timestamp": 1, "created": 1, "source_version": 1} | row for row in given]
    return pa.Table.from_pylist(made, schema=schemas.ITEM_FEATURES)


def tombstones(ids, version, at=1_000):
    return rows(Embeddings.absent(SPACE, len(ids), ids=ids), version, at, deleted=np.ones(len(ids), bool))


@pytest.mark.parametrize("count", [0, 1, 700])
def test_vectors_come_back_as_written_in_the_order_asked_for(store, count):
    ids = [f"i{n}" for n in range(count)]
    written = vectors(ids)
    assert store.write_rows(VIEW, rows(written)) == WriteCounts(applied=count)
    assert store.count(VIEW) == count
    places = np.random.default_rng(1).permutation(count)
    found = store.read_embeddings(SPACE, [ids[n] for n in places])
    expected = written.take(places)
    assert found.ids == expected.ids and found.space == SPACE
    for field in ("codes", "scale", "inv_norm", "present"):
        assert np.array_equal(getattr(found, field), getattr(expected, field))
    matrix = store.read_matrix(VIEW, [ids[n] for n in places])
    assert matrix.values.shape == (count, DIM) and matrix.values.dtype == np.float32
    assert np.array_equal(matrix.values, expected.to_float())
    assert (matrix.event_timestamps == 1_000).all() and matrix.status.tolist() == [Status.PRESENT] * count


def test_unknown_repeated_and_odd_ids_keep_their_place(store):
    written = vectors(["a", "b"])
    store.write_rows(VIEW, rows(written))
    asked = ["b", "nope", "a", "b", "no such \0 id", "x" * 2_000, ""]
    found = store.read_embeddings(SPACE, asked)
    assert found.ids == tuple(asked)
    assert found.present.tolist() == [True, False, True, True, False, False, False]
    assert np.array_equal(found.codes[[0, 2, 3]], written.codes[[1, 0, 1]])
    assert not found.codes[1].any() and found.scale[1] == 0
    table = store.read_columns(VIEW, asked, ["embedding", "codes", "scale", "source_version", "deleted", "content_hash"])
    assert table.column("item_id").to_pylist() == asked
    assert table.column("status").to_pylist() == [0, 1, 0, 0, 1, 1, 1]
    for name in ("embedding", "codes", "scale", "source_version", "deleted", "content_hash", "event_timestamp"):
        assert [value is None for value in table.column(name).to_pylist()] == [s == 1 for s in table.column("status").to_pylist()]


def test_nothing_asked_and_nothing_written(store):
    assert store.read_columns(VIEW, [], ["embedding"]).num_rows == 0
    assert store.read_columns(ITEMS, [], ["price"]).num_rows == 0
    assert store.read_records(VIEW, []).schema == schemas.ITEM_EMBEDDING
    assert store.read_matrix(ITEMS, []).values.shape == (0, 3)
    assert len(store.heads(VIEW, []).status) == 0 and store.delete(VIEW, []) == 0
    assert store.write_rows(ITEMS, schemas.ITEM_FEATURES.empty_table()) == WriteCounts()
    assert list(store.scan(VIEW)) == [] and store.drop_view(VIEW) == 0


def test_floats_alone_are_quantised_once(store):
    floats = np.random.default_rng(3).normal(size=(4, DIM)).astype(np.float32)
    stock = rows(vectors(["a", "b", "c", "d"])).select(["item_id", "source_version", "event_timestamp", "deleted"])
    stock = stock.append_column("embedding", pa.array(floats.tolist(), schemas.FLOATS))
    assert store.write_rows(VIEW, stock).applied == 4
    expected = Embeddings.from_float(SPACE, floats)
    found = store.read_embeddings(SPACE, ["a", "b", "c", "d"])
    assert np.array_equal(found.codes, expected.codes) and np.array_equal(found.scale, expected.scale)
    records = store.read_records(VIEW, ["a"]).to_pylist()[0]
    assert records["content_known_at"] == records["event_timestamp"] and records["space"] == SPACE.id
    assert records["content_hash"] == "0" * 32


def test_other_arrow_types_of_the_same_values(store):
    written = vectors(["a", "b"])
    table = rows(written, at=1_000_001)
    times = table["event_timestamp"].cast(pa.timestamp("ns")).combine_chunks().view(pa.int64())
    lists = pa.FixedSizeListArray.from_arrays(pa.array(written.to_float().ravel(), pa.float64()), DIM)
    table = _set(table, "event_timestamp", pa.compute.add(times, 7).view(pa.timestamp("ns")))
    table = _set(table, "embedding", lists.cast(pa.list_(pa.float64(), DIM)))
    table = _set(table, "item_id", table["item_id"].dictionary_encode())
    table = _set(table, "codes", table["codes"].cast(pa.large_binary()))
    table = _set(table, "source_version", table["source_version"].cast(pa.int32()))
    assert store.write_rows(VIEW, table) == WriteCounts(applied=2)
    assert store.read_records(VIEW, ["a", "b"]).equals(rows(written, at=1_000_001).drop_columns([]))
    assert store.heads(VIEW, ["a"]).event_timestamp.tolist() == [1_000_001]


def test_rows_with_codes_floats_and_nothing_in_one_table(store):
    coded, floated = vectors(["a"], 1), vectors(["b"], 2)
    table = pa.concat_tables([rows(coded), rows(floated), rows(Embeddings.absent(SPACE, 1, ids=["z"]))])
    codes = pa.array([coded.codes[0].tobytes(), None, None], pa.binary())
    floats = pa.array([None, floated.to_float()[0].tolist(), []], schemas.FLOATS)
    table = table.set_column(7, "codes", codes).set_column(10, "embedding", floats)
    assert store.write_rows(VIEW, table).applied == 3
    found = store.read_embeddings(SPACE, ["a", "b", "z"])
    assert found.present.tolist() == [True, True, False]
    assert np.array_equal(found.codes[:2], np.concatenate([coded.codes, floated.codes]))
    assert store.read_matrix(VIEW, ["z"]).status.tolist() == [Status.PRESENT]


def test_a_read_with_another_encoder_or_dim_is_refused(store):
    store.write_rows(VIEW, rows(vectors(["a", "b"])))
    retrained = EmbeddingSpace("moon", 1, DIM, "sha256:" + "b" * 64)
    wider = EmbeddingSpace("moon", 1, DIM + 1, SPACE.encoder_digest)
    for other in (retrained, wider):
        for read in (store.read_embeddings, lambda s, ids: store.read_matrix(views.embedding_view(s), ids)):
            with pytest.raises(SpaceMismatch, match="moon_v1"):
                read(other, ["nope", "a"])
        with pytest.raises(SpaceMismatch):
            store.heads(views.embedding_view(other), ["a"])
        with pytest.raises(SpaceMismatch):
            store.read_records(views.embedding_view(other), ["a"])
    assert store.read_embeddings(retrained, ["nope"]).present.tolist() == [False]


def test_the_first_writer_fixes_the_space_of_a_table(opened):
    store, late = opened(), opened()
    late.write_rows(views.embedding_view(EmbeddingSpace("moon", 1, DIM + 1)), schemas.ITEM_EMBEDDING.empty_table())
    store.write_rows(VIEW, rows(vectors(["a", "b"])))
    before = store.read_records(VIEW, ["a", "b", "c"])
    for other in (EmbeddingSpace("moon", 1, DIM, "sha256:" + "b" * 64), EmbeddingSpace("moon", 1, DIM + 1, SPACE.encoder_digest)):
        for writer in (store, late):
            with pytest.raises(SpaceMismatch, match="drop the view"):
                writer.write_rows(views.embedding_view(other), schemas.ITEM_EMBEDDING.empty_table())
            with pytest.raises(SpaceMismatch, match="drop the view"):
                writer.write_rows(views.embedding_view(other), rows(vectors(["a", "c"], space=other), version=9))
    assert store.read_records(VIEW, ["a", "b", "c"]) == before
    retrained = EmbeddingSpace("moon", 1, DIM, "sha256:" + "b" * 64)
    assert late.drop_view(views.embedding_view(retrained)) == 2
    late.write_rows(views.embedding_view(retrained), rows(vectors(["a"], space=retrained)))
    assert late.read_embeddings(retrained, ["a"]).present.all()
    with pytest.raises(SpaceMismatch):
        opened().write_rows(VIEW, rows(vectors(["a"])))


@pytest.mark.parametrize("view", ["embedding", "features", "simtier"])
def test_a_row_of_the_future_is_poison(store, clock, view):
    def made(key, at):
        if view == "embedding":
            return VIEW, rows(vectors([key]), at=at)
        if view == "features":
            return ITEMS, features({"item_id": key, "event_timestamp": at})
        row = {"user_id": "u", "item_id": key, "event_timestamp": at, "created": 1, "counts": [1], "missing": 0,
               "sequence_version": 1, "history_digest": "", "computed_at": at}  # fmt: skip
        return views.simtier_view(SimTierSpec("moon_v1")), pa.Table.from_pylist([row], schema=schemas.USER_ITEM_SIMTIER)

    spec, good = made("a", clock.now + MAX_AHEAD_US)
    assert store.write_rows(spec, good).applied == 1
    with pytest.raises(Poison, match=r"event_timestamp.*nothing was written"):
        store.write_rows(spec, pa.concat_tables([made("b", 1)[1], made("a", clock.now + MAX_AHEAD_US + 1)[1]]))
    assert store.count(spec) == 1 and store.read_records(spec, [("u", "a") if view == "simtier" else "a"]).num_rows == 1


def test_a_prefix_is_read_from_its_parent(store):
    written = vectors(["a", "b"])
    store.write_rows(VIEW, rows(written))
    found = store.read_embeddings(SPACE.prefix(2), ["b", "nope"])
    assert found.space.id == "moon_v1_d2" and found.codes.shape == (2, 2)
    expected = written.take(np.array([1])).prefix(2)
    assert np.array_equal(found.codes[:1], expected.codes) and np.array_equal(found.inv_norm[:1], expected.inv_norm)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.drop_columns(["source_version"]), Misconfigured),
        (lambda t: t.drop_columns(["event_timestamp"]), Misconfigured),
        (lambda t: t.drop_columns(["item_id"]), Misconfigured),
        (lambda t: _set(t, "source_version", pa.array([1, None], pa.int64())), Poison),
        (lambda t: _set(t, "event_timestamp", pa.array([1, None], TIMESTAMP)), Poison),
        (lambda t: _set(t, "item_id", pa.array(["a", "b c"])), Poison),
        (lambda t: _set(t, "item_id", pa.array(["a", None])), Poison),
        (lambda t: _set(t, "item_id", pa.array(["a", "x" * 65])), Poison),
        (lambda t: _set(t, "space", pa.array(["moon_v1", "moon_v2"])), SpaceMismatch),
        (lambda t: _set(t, "codes", pa.array([b"123456", b"1234567"], pa.binary())), SpaceMismatch),
        (lambda t: _set(t, "codes", pa.array([b"123456", b"\x80" * 6], pa.binary())), Poison),
        (lambda t: _set(t, "scale", pa.array([1.0, float("nan")], pa.float32())), Poison),
        (lambda t: _set(t, "scale", pa.array([1.0, -1.0], pa.float32())), Poison),
        (lambda t: _set(t, "scale", pa.array([1.0, 0.0], pa.float32())), Poison),
        (lambda t: _set(t, "scale", pa.array(["x", "y"])), Misconfigured),
        (lambda t: _set(t, "embedding", pa.array([[1.0] * DIM] * 2, schemas.FLOATS)), Poison),
        (lambda t: _set(t, "embedding", pa.array([[1.0], [2.0]], schemas.FLOATS)), SpaceMismatch),
        (lambda t: _set(t, "content_hash", pa.array(["0" * 32, "z" * 32])), Poison),
        (lambda t: _set(t, "content_hash", pa.array(["0" * 32, "0" * 31])), Poison),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(store, change, error):
    bad = change(rows(vectors(["a", "b"])))
    with pytest.raises(error) as raised:
        store.write_rows(VIEW, bad)
    assert "expected" in str(raised.value) and "got" in str(raised.value)
    assert store.count(VIEW) == 0 and store.dirty(SPACE, 10) == []


def _set(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def test_non_finite_floats_are_poison(store):
    bad = rows(vectors(["a"])).drop_columns(["codes", "scale"])
    with pytest.raises(Poison):
        store.write_rows(VIEW, _set(bad, "embedding", pa.array([[1.0, float("inf"), 0, 0, 0, 0]], schemas.FLOATS)))


def test_an_embedding_view_needs_its_space(store):
    nameless = ViewSpec(VIEW.name, ViewKind.EMBEDDING, VIEW.entities, VIEW.table, created="encoded_at", fenced=True)
    with pytest.raises(Misconfigured, match="space"):
        store.write_rows(nameless, rows(vectors(["a"])))


def test_tombstones_keep_their_version_and_hide_the_value(store):
    store.write_rows(VIEW, rows(vectors(["a", "b"])))
    assert store.write_rows(VIEW, tombstones(["a"], 2, at=2_000)) == WriteCounts(applied=1)
    assert store.write_rows(VIEW, rows(vectors(["a"]), version=1, at=9_000)) == WriteCounts(stale=1)
    assert store.read_embeddings(SPACE, ["a", "b"]).present.tolist() == [False, True]
    matrix = store.read_matrix(VIEW, ["a"])
    assert matrix.status.tolist() == [Status.DELETED] and np.isnan(matrix.values).all()
    assert matrix.event_timestamps.tolist() == [2_000]
    row = store.read_columns(VIEW, ["a"], ["embedding", "source_version"]).to_pylist()[0]
    assert row["embedding"] is None and row["source_version"] is None and row["status"] == Status.DELETED
    assert row["event_timestamp"] is not None
    record = store.read_records(VIEW, ["a", "nope"])
    assert record.equals(tombstones(["a"], 2, at=2_000))
    assert store.count(VIEW) == 2
    assert store.write_rows(VIEW, rows(vectors(["a"]), version=3)) == WriteCounts(applied=1)
    assert store.read_embeddings(SPACE, ["a"]).present.all()


def test_records_round_trip_bit_for_bit(store):
    ids = [f"i{n}" for n in range(9)]
    hashes = [f"{n + 1:032x}" for n in range(9)]
    table = rows(vectors(ids), np.arange(9) - 4, np.arange(9) + 5, content_hash=hashes)
    store.write_rows(VIEW, table)
    assert store.read_records(VIEW, ["nope", *ids]).equals(table)
    heads = store.heads(VIEW, ["i2", "nope", "i0"])
    assert heads.status.tolist() == [Status.PRESENT, Status.ABSENT, Status.PRESENT]
    assert heads.source_version.tolist() == [-2, 0, -4] and heads.event_timestamp.tolist() == [7, 0, 5]
    assert heads.encoded_at.tolist() == [7, 0, 5]
    assert [bytes(h).hex() for h in heads.content_hash] == [hashes[2], "0" * 32, hashes[0]]


def test_columns_with_nulls_round_trip(store):
    given = features(
        {"item_id": "a", "price": 1.5, "category": "shoes", "has_image": True},
        {"item_id": "b", "price": None, "category": "", "has_text": False},
        {"item_id": "c", "deleted": True, "price": 3.0, "category": "gone"},
    )
    assert store.write_rows(ITEMS, given).applied == 3
    found = store.read_columns(ITEMS, ["b", "c", "nope", "a"], ["category", "price", "has_text"]).to_pylist()
    assert [row["category"] for row in found] == ["", None, None, "shoes"]
    assert [row["price"] for row in found] == [None, None, None, 1.5]
    assert [row["has_text"] for row in found] == [False, None, None, None]
    assert [row["status"] for row in found] == [0, Status.DELETED, Status.ABSENT, 0]
    matrix = store.read_matrix(ITEMS, ["a", "b", "c", "nope"])
    expected = [[1.5, 1.0, np.nan], [np.nan, np.nan, 0.0], [np.nan] * 3, [np.nan] * 3]
    assert np.array_equal(matrix.values, np.array(expected, np.float32), equal_nan=True)
    records = store.read_records(ITEMS, ["a", "b"])
    assert records.equals(given.slice(0, 2)) and store.read_records(ITEMS, ["c"])["category"].to_pylist() == [None]


def test_a_correction_of_columns_needs_a_later_creation(store):
    assert store.write_rows(ITEMS, features({"item_id": "a", "price": 1.0})) == WriteCounts(applied=1)
    assert store.write_rows(ITEMS, features({"item_id": "a", "price": 2.0})) == WriteCounts(equal=1)
    assert store.read_columns(ITEMS, ["a"], ["price"]).column("price").to_pylist() == [1.0]
    assert store.write_rows(ITEMS, features({"item_id": "a", "price": 2.0, "created": 2})) == WriteCounts(applied=1)
    assert store.read_columns(ITEMS, ["a"], ["price"]).column("price").to_pylist() == [2.0]


def test_unknown_field_and_missing_column_are_misconfigured(store):
    with pytest.raises(Misconfigured, match="nope"):
        store.read_columns(ITEMS, ["a"], ["nope"])
    with pytest.raises(Misconfigured, match="price"):
        store.write_rows(ITEMS, features({"item_id": "a"}).drop_columns(["price"]))
    with pytest.raises(Misconfigured, match="sequence"):
        store.read_sequences(ITEMS, ["a"])


FOREIGN = pa.schema(
    [
        pa.field("driver", pa.string()),
        pa.field("trip", pa.string()),
        pa.field("event_timestamp", TIMESTAMP),
        *(pa.field(f"v{n}", kind) for n, kind in enumerate([pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64()])),
        pa.field("text", pa.string()),
        pa.field("blob", pa.binary()),
        pa.field("when", pa.timestamp("us", tz="UTC")),
        *(
            pa.field(f"l{n}", pa.list_(kind))
            for n, kind in enumerate([pa.bool_(), pa.int64(), pa.float32(), pa.string(), pa.binary(), pa.timestamp("us")])
        ),
    ]
)


def foreign(ttl=None, schema=FOREIGN):
    return ViewSpec("trips", ViewKind.COLUMNS, ("driver", "trip"), schema, created="", fenced=False, ttl=ttl)


def test_views_of_any_types_and_two_keys(store):
    full = [True, 1, -(2**62), 1.5, 2.5, "tëxt", b"\0blob", 77, [True, False], [1, 2], [0.5], ["a", "", "ü"], [b"", b"x"], [5]]
    empty = [False, 0, 0, 0.0, 0.0, "", b"", 0, [], [], [], [], [], []]
    null = [None] * len(full)
    data = [["d1", "t1", 1, *full], ["d1", "t2", 2, *empty], ["d 2/ü", "t1", 3, *null]]
    table = pa.table(
        [pa.array(values, field.type) for values, field in zip(zip(*data, strict=True), FOREIGN, strict=True)], FOREIGN
    )
    view = foreign()
    assert store.write_rows(view, table).applied == 3
    ids = [("d1", "t1"), ("d1", "t2"), ("d 2/ü", "t1"), ("d1", "nope")]
    found = store.read_columns(view, ids, FOREIGN.names[3:])
    assert found.slice(0, 3).select(FOREIGN.names[3:]).equals(table.select(FOREIGN.names[3:]))
    assert found.column("driver").to_pylist() == ["d1", "d1", "d 2/ü", "d1"]
    assert all(found.column(name).to_pylist()[3] is None for name in FOREIGN.names[3:])
    assert store.read_records(view, ids).equals(table)
    assert sorted(key for chunk in store.scan(view) for key in chunk) == sorted(ids[:3])
    assert store.delete(view, [ids[0], ids[0], ids[3]]) == 1 and store.count(view) == 2


@pytest.mark.parametrize("bad", ["a\0b", None])
def test_a_key_that_cannot_be_stored_is_poison(store, bad):
    one = pa.Table.from_pylist([{"driver": bad, "trip": "t", "event_timestamp": 1}], FOREIGN)
    with pytest.raises(Poison, match="driver"):
        store.write_rows(foreign(), one)


def test_null_inside_a_list_is_poison(store):
    one = pa.Table.from_pylist([{"driver": "d", "trip": "t", "event_timestamp": 1, "l1": [1, None]}], FOREIGN)
    with pytest.raises(Poison, match="l1"):
        store.write_rows(foreign(), one)


def test_a_type_that_cannot_be_stored_is_misconfigured(store):
    schema = FOREIGN.append(pa.field("map", pa.map_(pa.string(), pa.int64())))
    with pytest.raises(Misconfigured, match="map"):
        store.write_rows(foreign(schema=schema), schema.empty_table())


def test_long_keys_are_told_apart(store):
    names = [("d" * 600 + str(n), "t") for n in range(3)] + [("d" * 180, "t")]
    made = [{"driver": d, "trip": t, "event_timestamp": 1, "v1": n} for n, (d, t) in enumerate(names)]
    view = foreign()
    store.write_rows(view, pa.Table.from_pylist(made, FOREIGN))
    assert store.read_columns(view, names, ["v1"]).column("v1").to_pylist() == [0, 1, 2, 3]
    assert sorted(key for chunk in store.scan(view) for key in chunk) == sorted(names)
    assert store.drop_view(view) == 4 and store.count(view) == 0


def test_records_outlive_a_change_of_the_schema(opened):
    old = pa.schema(
        [("driver", pa.string()), ("trip", pa.string()), ("event_timestamp", TIMESTAMP), ("n", pa.int32()), ("s", pa.string())]
    )
    new = pa.schema([*[old.field(i) for i in range(3)], pa.field("n", pa.int64()), pa.field("extra", pa.list_(pa.float32()))])
    opened().write_rows(
        foreign(schema=old), pa.Table.from_pylist([{"driver": "a", "trip": "t", "event_timestamp": 1, "n": 7, "s": "x"}], old)
    )
    other = opened()
    view = foreign(schema=new)
    other.write_rows(
        view, pa.Table.from_pylist([{"driver": "b", "trip": "t", "event_timestamp": 1, "n": 8, "extra": [1.0]}], new)
    )
    found = other.read_columns(view, [("b", "t"), ("x", "t"), ("a", "t")], ["n", "extra"]).to_pylist()
    assert [(row["n"], row["extra"], row["status"]) for row in found] == [(8, [1.0], 0), (None, None, 1), (7, None, 0)]
    assert other.heads(view, [("a", "t"), ("b", "t")]).event_timestamp.tolist() == [1, 1]
    clash = pa.schema([*[old.field(i) for i in range(3)], pa.field("s", pa.float32())])
    with pytest.raises(Misconfigured, match="field s"):
        other.read_columns(foreign(schema=clash), [("a", "t")], ["s"])


def test_time_to_live_is_applied_at_read(store, clock):
    view = foreign(ttl=timedelta(seconds=10))
    made = [
        {"driver": d, "trip": "t", "event_timestamp": clock.now - age, "v1": 1} for d, age in (("new", 0), ("edge", 10_000_000))
    ]
    store.write_rows(view, pa.Table.from_pylist(made, FOREIGN))
    ids = [("new", "t"), ("edge", "t"), ("nope", "t")]
    assert store.read_columns(view, ids, ["v1"]).column("status").to_pylist() == [0, 0, 1]
    clock.now += 1
    found = store.read_columns(view, ids, ["v1"]).to_pylist()
    assert [row["status"] for row in found] == [0, Status.EXPIRED, 1] and [row["v1"] for row in found] == [1, None, None]
    assert found[1]["event_timestamp"] is not None
    matrix = store.read_matrix(view, ids)
    assert np.isnan(matrix.values[1]).all() and matrix.event_timestamps[1] == made[1]["event_timestamp"]
    assert matrix.status.tolist() == [0, 2, 1]
    assert store.heads(view, ids).status.tolist() == [0, 0, 1]
    made[1]["event_timestamp"] = clock.now
    store.write_rows(view, pa.Table.from_pylist(made[1:], FOREIGN))
    assert store.read_columns(view, ids, ["v1"]).column("status").to_pylist() == [0, 0, 1]


def test_delete_forgets_the_version_too(store):
    store.write_rows(VIEW, rows(vectors(["a", "b"]), version=9))
    assert store.delete(VIEW, ["a", "nope"]) == 1
    assert store.heads(VIEW, ["a", "b"]).status.tolist() == [Status.ABSENT, Status.PRESENT]
    assert store.read_records(VIEW, ["a"]).num_rows == 0
    assert store.write_rows(VIEW, rows(vectors(["a"]), version=1)) == WriteCounts(applied=1)


def test_views_and_projects_do_not_see_each_other(opened):
    one, other = opened(project="one"), opened(project="two")
    for store in (one, other):
        store.drop_view(VIEW)
    longer = EmbeddingSpace("moon", 12, DIM, SPACE.encoder_digest)
    one.write_rows(VIEW, rows(vectors(["a"])))
    one.write_rows(views.embedding_view(longer), rows(vectors(["a", "c"], space=longer)))
    other.write_rows(VIEW, rows(vectors(["a", "b"], 5), version=7))
    assert one.count(VIEW) == 1 and other.count(VIEW) == 2
    assert one.heads(VIEW, ["a"]).source_version.tolist() == [1]
    assert [mark.item_id for mark in one.dirty(SPACE, 10)] == ["a"]
    assert one.drop_view(VIEW) == 1 and one.dirty(SPACE, 10) == []
    assert one.count(views.embedding_view(longer)) == 2 and len(one.dirty(longer, 10)) == 2 and other.count(VIEW) == 2
    one.drop_view(views.embedding_view(longer)), other.drop_view(VIEW)


def test_scan_and_count_see_every_record(store):
    ids = [f"i{n}" for n in range(2_500)]
    store.write_rows(VIEW, rows(vectors(ids)))
    chunks = list(store.scan(VIEW))
    assert sorted(key for chunk in chunks for key in chunk) == sorted(ids)
    assert store.count(VIEW) == 2_500 and store.drop_view(VIEW) == 2_500 and list(store.scan(VIEW)) == []


def test_a_store_says_how_many_keys_of_others_a_scan_walks_through(store, request):
    before = store.foreign_keys()
    store.write_rows(ITEMS, features({"item_id": "a"}, {"item_id": "b"}))
    if "redis" in request.node.name:
        assert store.foreign_keys() >= before + 2
    else:
        assert store.foreign_keys() == before == 0


def test_two_stores_see_each_others_writes(opened):
    first, second = opened(), opened()
    first.write_rows(VIEW, rows(vectors(["a"])))
    assert second.read_embeddings(SPACE, ["a"]).present.all()
    assert second.write_rows(VIEW, rows(vectors(["a"]))) == WriteCounts(equal=1)
    first.close()
    assert second.count(VIEW) == 1


@pytest.mark.parametrize("wanted", [[], ["a"], ["b", "gone", "nobody", "a", "b"]])
def test_vectors_and_their_heads_are_of_the_same_records(store, wanted):
    store.write_rows(VIEW, rows(vectors(["a", "b"]), version=3, at=5))
    store.write_rows(VIEW, tombstones(["gone"], 4))
    found, heads = store.read_current(SPACE, wanted)
    expected, alone = store.read_embeddings(SPACE, wanted), store.heads(VIEW, wanted)
    assert (
        found.ids == expected.ids and np.array_equal(found.codes, expected.codes) and np.array_equal(found.scale, expected.scale)
    )
    assert np.array_equal(found.present, expected.present)
    assert all(np.array_equal(one, other) for one, other in zip(heads, alone, strict=True))
    prefix, _ = store.read_current(SPACE.prefix(3), wanted)
    assert np.array_equal(prefix.codes, expected.codes[:, :3])
