"""The indexer dies between any two steps, over the real milvus-lite and in memory; run again, index and store agree."""

import threading
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace, views
from moontide.errors import Transient
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.index import MilvusIndex
from moontide.stores.index_memory import MemoryIndex
from moontide.stores.indexer import IndexCounts, Indexer, RepairCounts

pytestmark = pytest.mark.faults

DIM = 4
VERSIONS = iter(range(1, 1_000_000))


class Crash(Exception):
    """The process is gone."""


class Dying:
    """Passes calls on; the `at`-th call of the whole run dies, before or after it took effect."""

    def __init__(self, inner, fuse, after):
        self._inner, self._fuse, self._after = inner, fuse, after

    def __getattr__(self, name):
        method = getattr(self._inner, name)

        def call(*args, **kwargs):
            self._fuse[0] -= 1
            if self._fuse[0] == 0 and not self._after:
                raise Crash(name)
            result = method(*args, **kwargs)
            if self._fuse[0] == 0:
                raise Crash(name)
            return result

        return call


@pytest.fixture(scope="module", params=["memory", "milvus-lite"])
def index(request, tmp_path_factory):
    made = MemoryIndex() if request.param == "memory" else MilvusIndex(str(tmp_path_factory.mktemp("lite") / "index.db"))
    yield made
    made.close()


@pytest.fixture
def space():
    return EmbeddingSpace("moon", next(VERSIONS), DIM, "sha256:" + "0" * 64)


@pytest.fixture
def online(tmp_path):
    made = online_store(Settings(online="memory", home=tmp_path))
    yield made
    made.close()


def rows(space, version, items, *, deleted=False, seed=0):
    vectors = Embeddings.from_float(space, np.random.default_rng([seed, version]).normal(size=(len(items), DIM)))
    at = datetime(2026, 1, 1, 0, 0, version, tzinfo=UTC)
    count = len(items)
    return pa.table(
        {
            "item_id": list(items),
            "source_version": [version] * count,
            "event_timestamp": [at] * count,
            "encoded_at": [at] * count,
            "content_known_at": [at] * count,
            "content_hash": [f"{version:032x}"] * count,
            "deleted": [deleted] * count,
            "codes": [c.tobytes() for c in vectors.codes],
            "scale": vectors.scale,
            "inv_norm": vectors.inv_norm,
            "embedding": list(vectors.to_float()),
            "space": [space.id] * count,
        },
        schema=views.embedding_view(space).table,
    )


def fill(online, space):
    """Items a-d present (b in its second version), e a tombstone, and x, whose record is gone for good."""
    view = views.embedding_view(space)
    online.write_rows(view, rows(space, 1, "abcdex"))
    online.write_rows(view, rows(space, 2, "b"))
    online.write_rows(view, rows(space, 3, "e", deleted=True))


def agree(online, index, space):
    view = views.embedding_view(space)
    assert online.dirty(space, 100) == []
    found = dict(pair for page in index.scan(space) for pair in page)
    assert sorted(found) == ["a", "b", "c", "d"]
    current = online.read_embeddings(space, list("abcd"))
    assert current.present.all()
    nearest = index.search(space, current, 1)
    assert nearest.ids == [[i] for i in "abcd"]
    assert Indexer(online, index, space).repair().marked == 0
    assert online.count(view) == 5


def steps(online, index, space, after):
    """Run with the fuse at 1, 2, 3, ... until a run ends without a crash; yields after each crash."""
    for at in range(1, 100):
        fuse = [at]
        try:
            Indexer(Dying(online, fuse, after), Dying(index, fuse, after), space).drain()
        except Crash:
            yield at
        else:
            return
    raise AssertionError("never ended")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_is_made_good_by_running_again(online, index, space, after):
    fill(online, space)
    Indexer(online, index, space).drain()
    crashes = 0
    for at in range(1, 20):
        online.write_rows(views.embedding_view(space), rows(space, 10 + at, "abcd"))
        online.write_rows(views.embedding_view(space), rows(space, 10 + at, "ex", deleted=True))
        fuse = [at]
        try:
            Indexer(Dying(online, fuse, after), Dying(index, fuse, after), space).drain()
        except Crash:
            crashes += 1
            Indexer(online, index, space).drain()
        online.delete(views.embedding_view(space), ["x"])
        Indexer(online, index, space).drain()
        agree(online, index, space)
        if fuse[0] > 0:
            break
    assert crashes >= 7 and fuse[0] > 0


def test_first_run_crashing_again_and_again_gets_there(online, index, space):
    fill(online, space)
    online.delete(views.embedding_view(space), ["x"])
    assert len(list(steps(online, index, space, after=True))) >= 7
    agree(online, index, space)


def test_a_record_written_while_it_is_indexed_stays_marked(online, index, space):
    view = views.embedding_view(space)
    fill(online, space)
    online.delete(view, ["x"])

    class Racing(Dying):
        def __getattr__(self, name):
            if name == "flush" and self._fuse[0] > 0:
                self._fuse[0] = 0
                online.write_rows(view, rows(space, 50, "a"))
                online.write_rows(view, rows(space, 51, "c", deleted=True))
                online.write_rows(view, rows(space, 52, "c"))
            return getattr(self._inner, name)

    first = Indexer(online, Racing(index, [1], True), space).run_once()
    assert first.cleared == first.upserted + first.deleted - 2
    assert sorted(m.item_id for m in online.dirty(space, 10)) == ["a", "c"]
    second = Indexer(online, index, space).run_once()
    assert (second.upserted, second.deleted, second.cleared) == (2, 0, 2)
    agree(online, index, space)


def test_a_failing_index_clears_no_mark(online, index, space):
    fill(online, space)

    class Failing(Dying):
        def __getattr__(self, name):
            if name == "flush":
                raise Transient("index: no flush today")
            return getattr(self._inner, name)

    before = online.dirty(space, 100)
    with pytest.raises(Transient):
        Indexer(online, Failing(index, [0], True), space).run_once()
    assert online.dirty(space, 100) == before


def test_repair_finds_missing_outdated_and_left_over_rows(online, index, space):
    view = views.embedding_view(space)
    fill(online, space)
    online.delete(view, ["x"])
    indexer = Indexer(online, index, space)
    assert indexer.drain() == IndexCounts(4, 2, 6)
    stale = Embeddings.from_float(space, np.ones((3, DIM)), ids=["b", "e", "ghost"])
    index.upsert(space, stale, [bytes(40)] * 3)
    index.delete(space, ["c"])
    found = indexer.repair()
    assert (found.checked, found.marked, found.deleted) == (5, 3, 1)
    done = indexer.drain()
    assert (done.upserted, done.deleted, done.cleared) == (2, 1, 3)
    agree(online, index, space)


def test_a_record_without_a_vector_is_not_indexed_and_not_missed(online, index, space):
    view = views.embedding_view(space)
    online.write_rows(view, rows(space, 1, "ab"))
    nothing = Embeddings.absent(space, 1)
    blank = rows(space, 2, "a").to_pylist()[0] | {
        "codes": nothing.codes.tobytes(),
        "scale": 0.0,
        "inv_norm": 0.0,
        "embedding": [0.0] * DIM,
    }
    online.write_rows(view, pa.Table.from_pylist([blank], schema=view.table))
    indexer = Indexer(online, index, space)
    assert indexer.drain() == IndexCounts(1, 1, 2)
    assert indexer.repair() == RepairCounts(2, 0, 0) and index.count(space) == 1


def test_nothing_dirty_is_nothing_done_and_small_limits_finish(online, index, space):
    indexer = Indexer(online, index, space)
    assert indexer.run_once() == indexer.drain() == IndexCounts()
    fill(online, space)
    online.delete(views.embedding_view(space), ["x"])
    assert indexer.run_once(limit=1).cleared == 1
    assert indexer.drain(max_rounds=2, limit=1).cleared == 2
    assert indexer.drain(limit=1).cleared == 3
    agree(online, index, space)


class Stepped:
    """An indexer in a thread of its own that makes one call to a store per `step`."""

    def __init__(self, online, index, space):
        self._go, self._at, self.done, self.error = threading.Semaphore(0), threading.Semaphore(0), False, None
        threading.Thread(target=self._run, args=(online, index, space), daemon=True).start()
        self._at.acquire()

    def _run(self, online, index, space):
        try:
            Indexer(_Gate(online, self.wait), _Gate(index, self.wait), space).drain(max_rounds=2)
        except Exception as error:  # noqa: BLE001 - shown by the next step
            self.error = error
        self.done = True
        self._at.release()

    def wait(self):
        self._at.release()
        self._go.acquire()

    def step(self):
        if not self.done:
            self._go.release()
            self._at.acquire()
        assert self.error is None


class _Gate:
    def __init__(self, inner, wait):
        self._inner, self._wait = inner, wait

    def __getattr__(self, name):
        method = getattr(self._inner, name)

        def call(*args, **kwargs):
            self._wait()
            return method(*args, **kwargs)

        return call


CHANGES = [(kind, item) for kind in ("write", "tombstone", "delete") for item in "ab"]
SCHEDULES = st.lists(st.one_of(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1), st.sampled_from(CHANGES)), max_size=40)


def run_schedule(schedule):
    """Two indexers and a writer, interleaved as `schedule` says, then each to its end; index and store agree or are marked."""
    space = EmbeddingSpace("moon", 1, DIM, "sha256:" + "0" * 64)
    view = views.embedding_view(space)
    online, index = online_store(Settings(online="memory")), MemoryIndex()
    online.write_rows(view, rows(space, 1, "ab"))
    both = [Stepped(online, index, space) for _ in range(2)]
    for version, act in enumerate(schedule, 2):
        if isinstance(act, int):
            both[act].step()
        elif act[0] == "delete":
            online.delete(view, [act[1]])
        else:
            online.write_rows(view, rows(space, version, act[1], deleted=act[0] == "tombstone"))
    for indexer in both:
        while not indexer.done:
            indexer.step()
    last = Indexer(online, index, space)
    last.drain()
    found = last.repair()
    assert (found.marked, found.deleted) == (0, 0)
    online.close()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(schedule=SCHEDULES)
def test_two_indexers_and_a_writer_in_any_order_leave_nothing_behind_unmarked(schedule):
    run_schedule(schedule)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("first", range(12))
@pytest.mark.parametrize("second", [3, 6, 30])
def test_an_indexer_that_overtakes_another_leaves_nothing_behind_unmarked(change, first, second):
    """One stops after `first` calls, the record changes, the other makes `second` calls, and the first goes on."""
    run_schedule([0] * first + [change] + [1] * second + [0] * 40)


@pytest.mark.parametrize("first", range(4, 9))
@pytest.mark.parametrize("again", ["write", "tombstone"])
def test_an_item_that_comes_back_is_not_lost(first, again):
    run_schedule([1] * 30 + [("tombstone", "a")] + [0] * first + [(again, "a")] + [1] * 40 + [0] * 40)
