"""Tables stay fresh: from a change stream, or by looking at the store again; and say how fresh they are."""

import shutil
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from moontide import Embeddings, EmbeddingSpace, Transient
from moontide.changes import change_key, pack_changes
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.kv import wall_clock
from moontide.views import embedding_view
from serving.reading import StoreVectors
from serving.table import VectorTables, table_state
from serving.table_changes import Record, changes_of
from serving.table_follow import TableKeeper
from serving.table_layout import create, table_path
from serving.table_writer import TableWriter

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 8)
GREEN = EmbeddingSpace("moon", 2, 4)
NOW = 1_700_000_000_000_000


def rows_of(ids, version, space=SPACE, deleted=False):
    vectors = Embeddings.absent(space, len(ids), ids=ids)
    if not deleted:
        vectors = Embeddings.from_codes(
            space, np.full((len(ids), space.dim), version, np.int8), np.ones(len(ids), np.float32), ids=ids
        )
    times = {"event_timestamp": NOW + version, "encoded_at": NOW, "content_known_at": NOW}
    return embedding_rows(vectors, source_version=version, deleted=np.full(len(ids), deleted), **times)


def records_of(rows, space=SPACE):
    ids = rows.column("item_id").to_pylist()
    return [Record(change_key(space, item), value) for item, value in zip(ids, pack_changes(space, rows), strict=True)]


class FakeSource:
    """A change stream that a test feeds; fails while `broken`."""

    def __init__(self):
        self.waiting, self.broken, self.opened, self.closed = [], False, 0, 0

    def open(self):
        self.opened += 1
        return self

    def find_partitions(self):
        if self.broken:
            raise Transient("the change stream: expected an answer, got none")

    def poll(self, seconds):
        time.sleep(0.002)
        self.find_partitions()
        taken, self.waiting = self.waiting, []
        return taken

    def lag(self):
        self.find_partitions()
        return len(self.waiting)

    def close(self):
        self.closed += 1


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.table_follow._RETRY_SECONDS", 0.01)
    store = online_store(Settings(home=tmp_path, online="memory"))
    writers = [TableWriter(tmp_path / "tables", space, 100, wall_clock) for space in (SPACE, GREEN)]
    tables = VectorTables(tmp_path / "tables", StoreVectors(online_store(Settings(home=tmp_path, online="memory"))))
    stop, threads = threading.Event(), []

    def keep(source, refresh=0.01):
        keeper = TableKeeper(writers, store, source, wall_clock, refresh_seconds=refresh)
        threads.append(threading.Thread(target=keeper.run, args=(stop,)))
        threads[-1].start()
        return keeper

    yield store, tables, keep
    stop.set()
    for thread in threads:
        thread.join(10)
    for writer in writers:
        writer.close()


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


def first_code(tables, item, space=SPACE):
    found = tables.read(space, [item])
    return int(found.codes[0, 0]) if found.present[0] else None


def test_changes_reach_the_tables_of_their_space_highest_order_first(site):
    store, tables, keep = site
    store.write_rows(embedding_view(SPACE), rows_of(["a", "b"], 3))
    source = FakeSource()
    keep(source.open, refresh=60)
    until(lambda: first_code(tables, "a") == 3 and all(state.loaded for state in tables.states([SPACE, GREEN])))
    source.waiting = [
        *records_of(rows_of(["a"], 7)),
        *records_of(rows_of(["a", "b"], 2)),
        *records_of(rows_of(["a"], 9, GREEN), GREEN),
    ]
    until(lambda: first_code(tables, "a") == 7 and first_code(tables, "a", GREEN) == 9)
    assert first_code(tables, "b") == 3
    source.waiting = records_of(rows_of(["a"], 8, deleted=True))
    until(lambda: first_code(tables, "a") is None)
    (state, _) = tables.states([SPACE, GREEN])
    assert state.loaded and state.lag == 0 and state.event_time == NOW + 8 and state.staleness(wall_clock()) < 5


def test_records_that_cannot_be_read_are_counted_and_passed_over(site):
    _, tables, keep = site
    source = FakeSource()
    keeper = keep(source.open, refresh=60)
    good = records_of(rows_of(["a", "b"], 5))
    source.waiting = [
        Record(b"no key", b"x"),
        Record(None, b"x"),
        good[0],
        Record(b"moon_v1/c", b"rubbish"),
        good[1],
        Record(b"moon_v1/a", None),
    ]
    until(lambda: first_code(tables, "b") == 5)
    until(lambda: keeper.unreadable >= 3)
    assert first_code(tables, "a") == 5 and first_code(tables, "c") is None


def test_nothing_and_one_record_of_the_space():
    assert changes_of(SPACE, []) == (None, 0)
    assert changes_of(GREEN, records_of(rows_of(["a"], 1))) == (None, 0)
    one, bad = changes_of(SPACE, records_of(rows_of(["a"], 1)))
    assert one.embeddings.ids == ("a",) and bad == 0


def test_without_a_change_stream_the_store_is_looked_at_again(site):
    store, tables, keep = site
    keep(None)
    until(lambda: all(state.loaded for state in tables.states([SPACE])))
    for version in (1, 4):
        store.write_rows(embedding_view(SPACE), rows_of(["a"], version))
        until(lambda version=version: first_code(tables, "a") == version)
    store.delete(embedding_view(SPACE), ["a"])
    until(lambda: first_code(tables, "a") is None)


def test_while_the_stream_is_down_the_store_is_looked_at_and_the_stream_is_taken_up_again(site, tmp_path):
    store, tables, keep = site
    source = FakeSource()
    keep(source.open)
    until(lambda: source.opened == 1 and tables.states([SPACE])[0].loaded)
    source.broken = True
    until(lambda: source.closed)
    store.write_rows(embedding_view(SPACE), rows_of(["a"], 6))
    until(lambda: first_code(tables, "a") == 6)
    assert table_state(tmp_path / "tables", SPACE).lag == -1


def test_a_store_that_does_not_answer_is_asked_again(site):
    store, tables, keep = site
    store.write_rows(embedding_view(SPACE), rows_of(["a"], 2))
    ask, failures = store.scan, []

    def scan(view):
        if len(failures) < 1:
            failures.append(view)
            raise Transient("no answer")
        return ask(view)

    store.scan = scan
    keep(None)
    until(lambda: first_code(tables, "a") == 2)
    assert failures


def test_changes_do_not_wait_for_a_long_load(site, monkeypatch):
    monkeypatch.setattr("serving.table_follow.POLL_SECONDS", 0.0)
    store, tables, keep = site
    store.write_rows(embedding_view(SPACE), rows_of(["a", "b"], 3))
    ask, go = store.scan, threading.Event()

    def scan(view):
        yield ["a"]
        yield from ask(view)
        assert go.wait(10)

    store.scan = scan
    source = FakeSource()
    source.waiting = records_of(rows_of(["a", "new"], 7))
    keep(source.open, refresh=60)
    until(lambda: first_code(tables, "new") == 7 and first_code(tables, "a") == 7)
    assert not tables.states([SPACE])[0].loaded
    go.set()
    until(lambda: tables.states([SPACE])[0].loaded)
    assert first_code(tables, "a") == 7 and first_code(tables, "b") == 3


def test_old_rows_do_not_count_as_fresh_while_they_are_loaded_again(site, monkeypatch):
    for name in ("POLL_SECONDS", "_CONNECT_SECONDS"):
        monkeypatch.setattr(f"serving.table_follow.{name}", 0.0)
    store, tables, keep = site
    store.write_rows(embedding_view(SPACE), rows_of(["a"], 3))
    source, ask, go, begun = FakeSource(), store.scan, threading.Event(), threading.Event()
    keep(source.open, refresh=60)
    until(lambda: tables.states([SPACE])[0].loaded)

    def scan(view):
        while not go.wait(0.002):
            begun.set()
            yield ["a"]
        yield from ask(view)

    source.broken, store.scan = True, scan
    until(lambda: source.closed)
    before = tables.states([SPACE])[0].polled_at
    source.broken = False
    assert begun.wait(10)
    until(lambda: source.opened > 1)
    for version in (5, 6):
        source.waiting = records_of(rows_of(["b"], version))
        until(lambda version=version: first_code(tables, "b") == version)
    assert tables.states([SPACE])[0].polled_at == before
    go.set()
    until(lambda: tables.states([SPACE])[0].polled_at > before)


def test_writes_beside_the_change_stream_are_found_at_the_next_look(site):
    store, tables, keep = site
    keep(FakeSource().open)
    until(lambda: tables.states([SPACE])[0].loaded)
    store.write_rows(embedding_view(SPACE), rows_of(["a"], 4))
    until(lambda: first_code(tables, "a") == 4)
    store.delete(embedding_view(SPACE), ["a"])
    until(lambda: first_code(tables, "a") is None)
    assert tables.states([SPACE])[0].lag == 0


def test_without_a_change_stream_a_table_is_as_old_as_the_start_of_its_load(site):
    store, tables, keep = site
    ask, asked = store.scan, []

    def scan(view):
        asked.append(wall_clock())
        time.sleep(0.02)
        return ask(view)

    store.scan = scan
    keep(None, refresh=60)
    until(lambda: tables.states([SPACE])[0].loaded)
    assert 0 < tables.states([SPACE])[0].polled_at <= asked[0]


def test_a_table_whose_file_is_gone_ends_its_keeper(site, tmp_path):
    store, _, _ = site
    writer = TableWriter(tmp_path / "other", SPACE, 10, wall_clock)
    keeper = TableKeeper([writer], store, None, wall_clock, refresh_seconds=0.01)
    for replace in (lambda: shutil.rmtree(tmp_path / "other"), lambda: create(path, SPACE, 10)):
        (tmp_path / "other").mkdir(mode=0o700, exist_ok=True)
        path = table_path(tmp_path / "other", SPACE)
        threading.Timer(0.03, replace).start()
        with pytest.raises(Transient, match="expected its file"):
            keeper.run(threading.Event())
    writer.close()


def test_a_full_table_makes_room_when_items_were_removed(site, tmp_path):
    store, _, _ = site
    store.write_rows(embedding_view(SPACE), rows_of(["a", "b"], 3))
    writer, stop = TableWriter(tmp_path / "small", SPACE, 2, wall_clock), threading.Event()
    tables = VectorTables(tmp_path / "small", StoreVectors(online_store(Settings(home=tmp_path, online="memory"))))
    keeper = TableKeeper([writer], store, FakeSource().open, wall_clock, refresh_seconds=0.01)
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    until(lambda: first_code(tables, "b") == 3)
    store.delete(embedding_view(SPACE), ["a"])
    store.write_rows(embedding_view(SPACE), rows_of(["c"], 5))
    until(lambda: first_code(tables, "c") == 5 and first_code(tables, "b") == 3)
    stop.set()
    thread.join(10)
    writer.close()


def test_an_empty_batch_of_rows_makes_no_records():
    assert records_of(rows_of([], 1)) == [] and isinstance(rows_of([], 1), pa.Table)
