"""A vector table against a dictionary: whatever comes in whatever order, one version of each item, and the store for the rest."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, Misconfigured, SpaceMismatch, Transient
from moontide.order import WriteOrder
from moontide.packed_ids import PackedIds
from moontide.records import embedding_rows
from moontide.row_index import DictionaryRows, rows_over, strings
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import embedding_view
from serving.reading import StoreVectors
from serving.table import VectorTables, table_state
from serving.table_layout import TableFile, table_path
from serving.table_load import load
from serving.table_writer import TableWriter

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 8, "sha256:" + "a" * 64)
OTHER = EmbeddingSpace("moon", 1, 8, "sha256:" + "b" * 64)
NOW = 1_700_000_000_000_000
ITEMS = [f"i{n}" for n in range(12)]


def clock():
    return NOW


def codes_of(version):
    """Codes that follow from the version, so that a mixture of two shows."""
    return np.full(8, version % 100 + 1, np.int8)


def vectors_of(ids, versions):
    """One row a version; 0 is a tombstone."""
    codes = np.array([codes_of(v) if v else np.zeros(8) for v in versions], np.int8).reshape(len(ids), 8)
    return Embeddings.from_codes(SPACE, codes, np.array(versions, np.float32) / 100, ids=list(ids))


def orders_of(versions):
    return [WriteOrder(v, NOW + v, NOW).pack() for v in versions]


class Nothing:
    """A fallback that is asked for what it must be asked for."""

    def __init__(self):
        self.asked = []

    def read(self, space, ids):
        self.asked.append(list(ids))
        return Embeddings.absent(space, len(ids), ids=ids)

    def read_keyed(self, space, *parts):
        ids = [item for part in parts for item in strings(part)]
        _, keys = np.unique(np.array(ids, object), return_inverse=True)
        return self.read(space, ids), keys


@pytest.fixture
def writer(tmp_path):
    made = TableWriter(tmp_path, SPACE, 100, clock)
    yield made
    made.close()


@pytest.fixture
def tables(tmp_path):
    return VectorTables(tmp_path, Nothing(), clock=clock)


WRITES = st.lists(st.lists(st.tuples(st.sampled_from(ITEMS), st.integers(1, 9), st.booleans()), max_size=8), max_size=8)


@pytest.mark.parametrize("index", [rows_over, DictionaryRows])
@settings(max_examples=40, deadline=None)
@given(WRITES, st.lists(st.sampled_from([*ITEMS, "nobody"]), max_size=20), st.integers(1, 12))
def test_it_equals_a_dictionary_under_any_writes(tmp_path_factory, index, batches, wanted, capacity):
    folder = tmp_path_factory.mktemp("tables")
    table, fallback = TableWriter(folder, SPACE, capacity, clock), Nothing()
    tables, truth = VectorTables(folder, fallback, clock=clock, index=index), {}
    for batch in batches:
        ids = [item for item, _, _ in batch]
        # Of two writes of one version the one with a vector is that version: equal orders are equal records.
        values = [0 if version == 9 else version for _, version, _ in batch]
        written = table.upsert(vectors_of(ids, values), orders_of([version for _, version, _ in batch]))
        before = dict(truth)
        for item, version, _ in batch:
            if (item in truth or len(truth) < capacity) and version > truth.get(item, 0):
                truth[item] = version
        assert written == sum(truth[item] != before.get(item) for item in truth)
        found, keys = tables.read_keyed(SPACE, wanted[:3], PackedIds.of(wanted[3:]))
        for row, item in enumerate(wanted):
            version = truth.get(item, 9)
            assert found.present[row] == (version != 9)
            if version != 9:
                assert (found.codes[row] == codes_of(version)).all() and found.scale[row] == np.float32(version) / np.float32(100)
        same = np.array(wanted)[:, None] == np.array(wanted)[None, :] if wanted else np.zeros((0, 0), bool)
        assert ((keys[:, None] == keys[None, :]) == same).all()
    state = table_state(folder, SPACE)
    assert state.rows == len(truth) and state.event_time == max((NOW + v for v in truth.values()), default=0)
    table.close()


@pytest.mark.parametrize("rows", [rows_over, DictionaryRows])
def test_an_item_that_comes_in_between_two_batches_is_in_neither_or_both(writer, tmp_path, rows):
    """Else an item would count itself: its candidate and its behaviour would have two keys."""

    class Late:
        """An index that takes in another row after it was asked for its first batch."""

        def __init__(self, keys):
            self._index = rows(keys)
            self.find_first = True

        @property
        def rows(self):
            return self._index.rows

        def add(self, last):
            self._index.add(last)

        def find(self, ids):
            found = self._index.find(ids)
            if self.find_first and self._index.rows:
                self.find_first = False
                writer.upsert(vectors_of(["new"], [5]), orders_of([5]))
                self._index.add(self._index.rows + 1)
            return found

    writer.upsert(vectors_of(["a"], [3]), orders_of([3]))
    tables = VectorTables(tmp_path, Nothing(), clock=clock, index=Late)
    _, keys = tables.read_keyed(SPACE, ["a", "new"], PackedIds.of(["new", "a"]))
    assert keys[0] == keys[3] >= 0 and keys[1] == keys[2] < 0
    found, keys = tables.read_keyed(SPACE, ["a", "new"], ["new"])
    assert found.present.all() and keys.tolist() == [0, 1, 1]


def test_nothing_and_one(writer, tables):
    assert writer.upsert(vectors_of([], []), []) == 0 and len(tables.read(SPACE, [])) == 0
    assert writer.upsert(vectors_of(["a"], [3]), orders_of([3])) == 1
    found = tables.read(SPACE, ["a"])
    assert found.ids == ("a",) and (found.codes == codes_of(3)).all() and len(tables.read(SPACE, [])) == 0


def test_a_full_table_gives_the_rest_from_the_store(tmp_path):
    store = online_store(Settings(home=tmp_path, online="memory"), clock=clock)
    versions = list(range(1, 13))
    rows = embedding_rows(
        vectors_of(ITEMS, versions), source_version=np.array(versions), event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW
    )
    store.write_rows(embedding_view(SPACE), rows)
    table = TableWriter(tmp_path / "tables", SPACE, 5, clock)
    assert load(store, table, threading.Event())
    table.polled()
    tables = VectorTables(tmp_path / "tables", StoreVectors(store), clock=clock)
    wanted = [*ITEMS, "nobody", *ITEMS[::-1], "nobody"]
    found, keys = tables.read_keyed(SPACE, wanted)
    expected = store.read_embeddings(SPACE, wanted)
    assert (found.codes == expected.codes).all() and (found.scale == expected.scale).all()
    assert (found.inv_norm == expected.inv_norm).all() and (found.present == expected.present).all()
    assert len(set(keys.tolist())) == 13 and keys[0] == keys[-2]
    assert tables.reads["moon_v1"].table == 10 and tables.reads["moon_v1"].store == 16
    (state,) = tables.states([SPACE])
    assert (state.rows, state.capacity, state.refused, state.loaded) == (5, 5, 7, True)
    assert tables.scan_blocks(SPACE) is None
    table.close()


def test_blocks_are_everything_once_it_is_loaded(writer, tables):
    assert tables.scan_blocks(SPACE) is None
    writer.upsert(vectors_of(ITEMS, range(12)), orders_of(range(12)))
    assert tables.scan_blocks(SPACE) is None
    writer.polled()
    (block,) = tables.scan_blocks(SPACE)
    assert block[0] == ITEMS and block[1].present.tolist() == [False] + [True] * 11


def test_items_removed_for_good_are_gone_after_the_next_load(tmp_path, writer, tables):
    store = online_store(Settings(home=tmp_path, online="memory"), clock=clock)
    rows = embedding_rows(
        vectors_of(["a", "b"], [5, 6]), source_version=5, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW
    )
    store.write_rows(embedding_view(SPACE), rows)
    load(store, writer, threading.Event())
    assert tables.read(SPACE, ["a", "b"]).present.all()
    store.delete(embedding_view(SPACE), ["a"])
    load(store, writer, threading.Event())
    assert tables.read(SPACE, ["a", "b"]).present.tolist() == [False, True]
    store.write_rows(embedding_view(SPACE), rows.slice(0, 1))
    load(store, writer, threading.Event())
    assert tables.read(SPACE, ["a", "b"]).present.all()


def stored(store, ids, version):
    rows = embedding_rows(
        vectors_of(ids, [version] * len(ids)),
        source_version=version,
        event_timestamp=NOW + version,
        encoded_at=NOW,
        content_known_at=NOW,
    )
    store.write_rows(embedding_view(SPACE), rows)


def test_the_store_is_right_also_where_its_order_goes_down(tmp_path, writer, tables):
    store = online_store(Settings(home=tmp_path, online="memory"), clock=clock)
    stored(store, ["a", "b"], 9)
    load(store, writer, threading.Event())
    store.delete(embedding_view(SPACE), ["a", "b"])
    stored(store, ["a", "b"], 3)
    store.scan = lambda view: iter([["a"], ["b"]])

    def change():
        writer.upsert(vectors_of(["b", "new"], [12, 12]), orders_of([12, 12]))

    load(store, writer, threading.Event(), change)
    assert tables.read(SPACE, ["a", "b", "new"]).codes[:, 0].tolist() == [4, 13, 13]
    load(store, writer, threading.Event())
    found = tables.read(SPACE, ["a", "b", "new"])
    assert found.codes[:2, 0].tolist() == [4, 4] and found.present.tolist() == [True, True, False]


def test_rows_of_removed_items_do_not_fill_a_table_for_ever(tmp_path, tables):
    store = online_store(Settings(home=tmp_path, online="memory"), clock=clock)
    table = TableWriter(tmp_path, SPACE, 4, clock)
    stored(store, ["a", "b", "c", "d"], 5)
    load(store, table, threading.Event())
    assert not table.renew()
    assert tables.read(SPACE, ["a"]).present.all()
    store.delete(embedding_view(SPACE), ["a", "b"])
    stored(store, ["e", "f"], 5)
    load(store, table, threading.Event())
    assert table_state(tmp_path, SPACE).refused == 2
    table.polled()
    assert table.renew() and not table_state(tmp_path, SPACE).loaded and not tables.read(SPACE, ["c"]).present.any()
    load(store, table, threading.Event())
    assert tables.read(SPACE, ["c", "d", "e", "f", "a"]).present.tolist() == [True] * 4 + [False]
    assert table_state(tmp_path, SPACE).refused == 0 and not table.renew()
    table.close()


def test_a_table_that_was_replaced_is_found(tmp_path, tables):
    first = TableWriter(tmp_path, SPACE, 4, clock)
    first.upsert(vectors_of(["a"], [1]), orders_of([1]))
    assert tables.read(SPACE, ["a"]).present.all()
    first.close()
    second = TableWriter(tmp_path, SPACE, 8, clock)
    assert second.rows == 0
    second.upsert(vectors_of(["b", "a"], [7, 2]), orders_of([7, 2]))
    assert tables.read(SPACE, ["a", "b"]).codes[:, 0].tolist() == [3, 8]
    second.close()
    table_path(tmp_path, SPACE).unlink()
    assert not tables.read(SPACE, ["a"]).present.any() and tables.states([SPACE]) == []


def test_vectors_of_another_encoder_are_refused(tmp_path, writer, tables):
    alien = Embeddings.absent(OTHER, 1, ids=["a"])
    with pytest.raises(SpaceMismatch):
        writer.upsert(alien, orders_of([1]))
    with pytest.raises(SpaceMismatch, match="another encoder"):
        tables.read(OTHER, ["a"])
    with pytest.raises(SpaceMismatch):
        table_state(tmp_path, OTHER)


def test_there_is_one_writer(tmp_path, writer):
    with pytest.raises(Transient, match="only writer"):
        TableWriter(tmp_path, SPACE, 100, clock)


def test_a_writer_goes_on_with_the_file_and_mends_half_written_rows(tmp_path, tables):
    store = online_store(Settings(home=tmp_path, online="memory"), clock=clock)
    rows = embedding_rows(
        vectors_of(ITEMS, range(1, 13)), source_version=5, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW
    )
    store.write_rows(embedding_view(SPACE), rows)
    first = TableWriter(tmp_path, SPACE, 100, clock)
    load(store, first, threading.Event())
    first.upsert(vectors_of(["extra"], [3]), orders_of([3]))
    first.close()
    file = TableFile(table_path(tmp_path, SPACE), SPACE, write=True)
    file.parts.heads["sequence"][[2, 12]] += np.uint64(1)
    file.parts.codes[[2, 12]] = 99
    found = tables.read(SPACE, ["i1", "i2", "extra"])
    assert found.present.tolist() == [True, False, False] and tables.reads["moon_v1"].torn == 2
    second = TableWriter(tmp_path, SPACE, 100, clock)
    assert second.rows == 13 and second.damaged == ["i2", "extra"] and not table_state(tmp_path, SPACE).loaded
    load(store, second, threading.Event())
    second.polled(lag=4)
    assert (tables.read(SPACE, ITEMS).codes == store.read_embeddings(SPACE, ITEMS).codes).all()
    assert not tables.read(SPACE, ["extra"]).present.any() and tables.reads["moon_v1"].torn == 2
    assert table_state(tmp_path, SPACE).lag == 4
    second.close()


def test_a_table_nobody_keeps_fresh_is_read_until_its_age_is_too_high(tmp_path, writer):
    writer.upsert(vectors_of(["a"], [1]), orders_of([1]))
    writer.polled()
    now = [NOW]
    ever, limited = (VectorTables(tmp_path, Nothing(), max_age_seconds=age, clock=lambda: now[0]) for age in (None, 5))
    assert ever.read(SPACE, ["a"]).present.all() and limited.read(SPACE, ["a"]).present.all()
    now[0] += 5_000_001
    assert ever.read(SPACE, ["a"]).present.all() and not limited.read(SPACE, ["a"]).present.any()
    assert ever.states([SPACE])[0].staleness(now[0]) == pytest.approx(5, abs=0.01)


def test_a_table_of_the_future_is_not_fresh(tmp_path, writer):
    writer.upsert(vectors_of(["a"], [1]), orders_of([1]))
    writer.polled()
    now = [NOW - 2_000_000]
    limited = VectorTables(tmp_path, Nothing(), max_age_seconds=30, clock=lambda: now[0])
    assert limited.read(SPACE, ["a"]).present.all() and limited.states([SPACE])[0].staleness(now[0]) == 0
    now[0] = NOW - 60_000_000
    assert not limited.read(SPACE, ["a"]).present.any() and limited.scan_blocks(SPACE) is None
    assert limited.states([SPACE])[0].staleness(now[0]) == float("inf")


def test_a_prefix_comes_from_the_fallback(writer, tables):
    assert len(tables.read(SPACE.prefix(4), ["a", "b"])) == 2
    assert tables.reads["moon_v1_d4"].store == 2


@pytest.mark.parametrize("text", [b"", b"something else entirely", b"MtTable\0" + b"\xff" * 200])
def test_another_file_is_refused_by_readers_and_replaced_by_the_writer(tmp_path, tables, text):
    table_path(tmp_path, SPACE).write_bytes(text)
    with pytest.raises(Misconfigured):
        tables.read(SPACE, ["a"])
    made = TableWriter(tmp_path, SPACE, 4, clock)
    made.upsert(vectors_of(["a"], [1]), orders_of([1]))
    assert tables.read(SPACE, ["a"]).present.all()
    made.close()
