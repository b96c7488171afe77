"""Nearest items: the same from every source, and what happens where a source is not there."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, views
from moontide.errors import Misconfigured, Poison, SpaceMismatch, Transient
from moontide.neighbours import in_blocks, in_index, store_blocks
from moontide.order import KEY_BYTES
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.index_memory import MemoryIndex
from serving.reading import StoreVectors
from serving.similar import BlockSource, SharedIndex, SimilarItems
from serving.table import VectorTables
from serving.table_load import load
from serving.table_writer import TableWriter

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000
SPACE = EmbeddingSpace("moon", 1, 6, "sha256:" + "a" * 64)


def vectors(count, seed=0, absent=(), space=SPACE):
    values = np.random.default_rng(seed).integers(-3, 4, (count, space.dim)).astype(np.float32)
    values[list(absent)] = 0
    return Embeddings.from_float(space, values, ids=[f"i{n:03d}" for n in range(count)])


def brute(items, row, k):
    """Plain Python over pairs: exact integer dot, then float32 as the definition has it."""
    pairs = []
    for n in range(len(items)):
        if n != row and items.present[n]:
            dot = sum(int(a) * int(b) for a, b in zip(items.codes[row], items.codes[n], strict=True))
            pairs.append((items.ids[n], float(np.float32(dot) * items.inv_norm[row] * items.inv_norm[n])))
    return sorted(pairs, key=lambda p: (-p[1], p[0]))[:k]


def cut(items, sizes):
    start = 0
    for size in [*sizes, len(items)]:
        part = items.take(slice(start, start + size))
        yield part.ids, part
        start += size


@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 12), st.lists(st.integers(0, 9), max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_blocks_of_any_size_give_what_brute_force_gives(count, seed, k, sizes, data):
    absent = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    items = vectors(count, seed, sorted(absent))
    there = np.flatnonzero(items.present).tolist()
    if not there:
        return
    row = data.draw(st.sampled_from(there))
    query = items.take(slice(row, row + 1))
    got = in_blocks(cut(items, sizes), query, items.ids[row], k)
    assert got == brute(items, row, k)


def test_blocks_and_index_agree_to_the_bit():
    items = vectors(300, 3)
    items = items.take(items.present)
    index = MemoryIndex()
    index.ensure(SPACE)
    index.upsert(SPACE, items, [bytes(KEY_BYTES)] * len(items))
    query = items.take(slice(7, 8))
    assert in_blocks(cut(items, [64, 1, 0]), query, items.ids[7], 25) == in_index(index, query, items.ids[7], 25)


def test_no_block_and_no_other_item_give_no_hit():
    items = vectors(1)
    query = items.take(slice(0, 1))
    assert in_blocks([], query, "i000", 3) == []
    assert in_blocks(cut(items, []), query, "i000", 3) == []


def test_an_id_that_comes_twice_is_one_hit():
    items = vectors(9, 1)
    query = items.take(slice(0, 1))
    found = in_blocks([*cut(items, []), *cut(items, [4])], query, "i000", 20)
    assert found == brute(items, 0, 20)


def test_a_block_of_another_space_is_refused():
    other = EmbeddingSpace("moon", 1, 6, "sha256:" + "b" * 64)
    with pytest.raises(SpaceMismatch):
        in_blocks(cut(vectors(2, space=other), []), vectors(2).take(slice(0, 1)), "i000", 1)


@pytest.fixture
def store(tmp_path):
    opened = online_store(Settings(home=tmp_path, online="memory"))
    items = vectors(30, 5)
    rows = embedding_rows(items, source_version=1, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW)
    opened.write_rows(views.embedding_view(SPACE), rows)
    return opened


class Index:
    """A `SharedIndex` that answers, or says why not; counts its uses."""

    def __init__(self, problem=None, embedded=False):
        self.problem = problem
        self.embedded = embedded
        self.used = 0
        self.memory = MemoryIndex()
        self.memory.ensure(SPACE)
        items = vectors(30, 5)
        items = items.take(items.present)
        self.memory.upsert(SPACE, items, [bytes(KEY_BYTES)] * len(items))

    @contextmanager
    def use(self):
        self.used += 1
        if self.problem:
            raise self.problem
        yield self.memory

    def close(self):
        pass


class Tables:
    def __init__(self, items):
        self.items = items

    def scan_blocks(self, space):
        return cut(self.items, [7]) if self.items is not None and space == self.items.space else None


EXPECTED = brute(vectors(30, 5), 4, 5)


@pytest.mark.parametrize(
    ("tables", "index", "rows", "source"),
    [
        (Tables(vectors(30, 5)), Index(), 0, "table"),
        (Tables(None), Index(), 100, "index"),
        (None, Index(embedded=True), 100, "scan"),
        (None, Index(embedded=True), 29, "index"),
        (None, Index(Transient("index: gone")), 30, "scan"),
        (None, Index(Misconfigured("index: another process has it")), 30, "scan"),
        (None, None, 30, "scan"),
    ],
)
def test_every_source_gives_the_same(store, tables, index, rows, source):
    found = SimilarItems(store, tables=tables, index=index, scan_rows=rows).of(SPACE, "i004", 5)
    assert (found.source, found.hits) == (source, EXPECTED)
    table = found.to_arrow()
    assert table.column_names == ["item_id", "cosine"]
    assert table["cosine"].to_pylist() == [c for _, c in EXPECTED]
    assert table.schema.metadata == {
        b"space": b"moon_v1",
        b"encoder_digest": SPACE.encoder_digest.encode(),
        b"source": source.encode(),
    }


def test_where_nothing_answers_it_says_why_and_that_it_may_pass(store):
    index = Index(Transient("index: connect: no answer"))
    similar = SimilarItems(store, index=index, scan_rows=29)
    for _ in range(2):
        with pytest.raises(Transient, match=r"at most 29 vectors.*connect: no answer.*MOONTIDE_SERVING_TABLE=on"):
            similar.of(SPACE, "i004", 5)
    assert index.used == 2


def test_a_space_found_too_large_is_not_counted_again(store, monkeypatch):
    similar, scans = SimilarItems(store, scan_rows=1), []
    real = store.scan
    monkeypatch.setattr(store, "scan", lambda view: scans.append(view) or real(view))
    for _ in range(3):
        with pytest.raises(Transient):
            similar.of(SPACE, "i004", 5)
    assert len(scans) == 1


def test_a_mismatch_is_never_papered_over(store):
    with pytest.raises(SpaceMismatch):
        SimilarItems(store, index=Index(SpaceMismatch("index: another encoder")), scan_rows=100).of(SPACE, "i004", 5)


def test_what_cannot_be_asked(store):
    similar = SimilarItems(store)
    with pytest.raises(Poison, match="i999: expected a vector"):
        similar.of(SPACE, "i999", 3)
    with pytest.raises(Poison):
        similar.of(SPACE, "no id", 3)
    for k in (0, -1, 10_001):
        with pytest.raises(Misconfigured, match="k: expected 1 to 10,000"):
            similar.of(SPACE, "i004", k)
    assert len(similar.of(SPACE, "i004", 10_000).hits) == int(vectors(30, 5).present.sum()) - 1


def test_an_item_deleted_since_is_no_hit(store):
    first = EXPECTED[0][0]
    gone = Embeddings.absent(SPACE, 1, ids=[first])
    rows = embedding_rows(gone, source_version=2, event_timestamp=NOW + 1, encoded_at=NOW + 1, content_known_at=NOW + 1)
    store.write_rows(views.embedding_view(SPACE), rows)
    assert first not in dict(SimilarItems(store).of(SPACE, "i004", 5).hits)


def test_the_store_is_scanned_up_to_a_bound(store):
    assert sum(len(ids) for ids, _ in store_blocks(store, SPACE, most=30)) == 30
    with pytest.raises(OverflowError):
        list(store_blocks(store, SPACE, most=29))


def test_a_milvus_lite_that_is_not_there_is_not_made(tmp_path):
    index = SharedIndex(Settings(home=tmp_path, online="memory"))
    assert index.embedded
    with pytest.raises(Transient, match="got nothing"), index.use():
        pass
    assert list(tmp_path.iterdir()) == []
    index.close()


def test_a_server_that_failed_is_left_alone_for_a_while(tmp_path, monkeypatch):
    now, opened = [100.0], []

    def opening(settings, *, timeout):
        opened.append(timeout)
        raise Transient("index: no answer")

    monkeypatch.setattr("moontide.stores.vector_index", opening)
    index = SharedIndex(Settings(home=tmp_path, online="memory", index_uri="http://127.0.0.1:9"), lambda: now[0])
    assert not index.embedded
    for at, tries, text in ((100.0, 1, "no answer"), (104.9, 1, "less than 5 s ago"), (105.0, 2, "no answer")):
        now[0] = at
        with pytest.raises(Transient, match=text), index.use():
            pass
        assert len(opened) == tries
    assert max(opened) <= 5


def test_those_who_wait_for_a_server_that_fails_do_not_each_ask_it(tmp_path, monkeypatch):
    opened, waiting, said = [], threading.Semaphore(0), []

    def opening(settings, *, timeout):
        opened.append(timeout)
        for _ in range(3):
            assert waiting.acquire(timeout=10)
        time.sleep(0.05)
        raise Transient("index: no answer")

    monkeypatch.setattr("moontide.stores.vector_index", opening)
    index = SharedIndex(Settings(home=tmp_path, online="memory", index_uri="http://127.0.0.1:9"), lambda: 100.0)

    def ask():
        waiting.release()
        try:
            with index.use():
                pass
        except Transient as error:
            said.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(opened) == 1 and len(said) == 3 and sum("less than" in text for text in said) == 2


def test_a_server_is_opened_once_and_closed_at_the_end(tmp_path, monkeypatch):
    class Memory(MemoryIndex):
        closed = 0

        def close(self):
            self.closed += 1

    made = []
    monkeypatch.setattr("moontide.stores.vector_index", lambda settings, *, timeout: made.append(Memory()) or made[-1])
    index = SharedIndex(Settings(home=tmp_path, online="memory", index_uri="http://127.0.0.1:9"))
    for _ in range(3):
        with index.use() as used:
            assert used is made[0]
    index.close()
    index.close()
    assert len(made) == 1 and made[0].closed == 1


def test_a_real_table_gives_the_same(store, tmp_path):
    writer = TableWriter(tmp_path, SPACE, 100, lambda: NOW)
    tables = VectorTables(tmp_path, StoreVectors(store), clock=lambda: NOW)
    similar = SimilarItems(store, tables=tables)
    assert isinstance(tables, BlockSource)
    assert similar.of(SPACE, "i004", 5).source == "scan"
    assert load(store, writer, threading.Event())
    writer.polled()
    found = similar.of(SPACE, "i004", 5)
    assert (found.source, found.hits) == ("table", EXPECTED)
    writer.close()
