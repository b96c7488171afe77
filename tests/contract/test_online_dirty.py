"""Dirty marks: what tells the indexer that an index entry may be out of date."""

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace, views
from moontide.order import WriteOrder
from moontide.records import embedding_rows
from moontide.stores.base import DirtyMark, WriteCounts

pytestmark = pytest.mark.contract

SPACE = EmbeddingSpace("dirty", 1, 4)
VIEW = views.embedding_view(SPACE)


def rows(ids, version=1):
    found = Embeddings.from_float(SPACE, np.ones((len(ids), 4), np.float32), ids=ids)
    return embedding_rows(found, source_version=version, event_timestamp=7, encoded_at=8, content_known_at=7)


def tombstone(item, version):
    gone = Embeddings.absent(SPACE, 1, ids=[item])
    return embedding_rows(
        gone, source_version=version, event_timestamp=7, encoded_at=8, content_known_at=7, deleted=np.array([True])
    )


def marked(store):
    return sorted(mark.item_id for mark in store.dirty(SPACE, 100))


def clear_all(store):
    return store.clear_dirty(SPACE, store.dirty(SPACE, 10_000))


def test_a_mark_carries_the_order_of_the_record(store):
    store.write_rows(VIEW, rows(["a"], version=3))
    assert store.dirty(SPACE, 10) == [DirtyMark("a", WriteOrder(3, 7, 8).pack())]


def test_winners_and_equals_are_marked_and_stale_writes_are_not(store):
    store.write_rows(VIEW, rows(["a", "b", "c"], version=2))
    assert clear_all(store) == 3 and marked(store) == []
    assert store.write_rows(VIEW, rows(["a"], version=1)) == WriteCounts(stale=1)
    assert marked(store) == []
    assert store.write_rows(VIEW, rows(["b"], version=2)) == WriteCounts(equal=1)
    assert marked(store) == ["b"]
    store.write_rows(VIEW, tombstone("c", 3))
    assert marked(store) == ["b", "c"]


def test_marked_anew_between_read_and_clear_stays(store):
    store.write_rows(VIEW, rows(["a", "b"]))
    read = store.dirty(SPACE, 10)
    store.write_rows(VIEW, rows(["a"], version=2))
    assert store.clear_dirty(SPACE, read) == 1
    assert store.dirty(SPACE, 10) == [DirtyMark("a", WriteOrder(2, 7, 8).pack())]
    assert store.clear_dirty(SPACE, read) == 0 and clear_all(store) == 1


def test_removed_items_stay_dirty_until_cleared_with_the_new_token(store):
    store.write_rows(VIEW, rows(["a", "b"]))
    read = store.dirty(SPACE, 10)
    assert store.delete(VIEW, ["a", "never"]) == 1
    assert store.clear_dirty(SPACE, read) == 1 and marked(store) == ["a"]
    (mark,) = store.dirty(SPACE, 10)
    store.write_rows(VIEW, rows(["a"]))
    assert store.clear_dirty(SPACE, [mark]) == 0 and marked(store) == ["a"]
    assert clear_all(store) == 1 and marked(store) == []


def test_limit_and_progress(store):
    ids = [f"i{n}" for n in range(600)]
    store.write_rows(VIEW, rows(ids))
    seen = set()
    while batch := store.dirty(SPACE, 70):
        assert len(batch) <= 70 and len({mark.item_id for mark in batch}) == len(batch)
        seen |= {mark.item_id for mark in batch}
        assert store.clear_dirty(SPACE, batch) == len(batch)
    assert seen == set(ids)
    assert store.dirty(SPACE, 0) == [] and store.clear_dirty(SPACE, []) == 0


def test_repair_marks_only_what_has_a_record(store):
    store.write_rows(VIEW, rows(["a", "b"]))
    store.write_rows(VIEW, tombstone("b", 2))
    clear_all(store)
    assert store.mark_dirty(SPACE, ["a", "b", "nope", "a"]) == 2 and store.mark_dirty(SPACE, []) == 0
    tokens = {mark.item_id: mark.token for mark in store.dirty(SPACE, 10)}
    assert tokens == {"a": WriteOrder(1, 7, 8).pack(), "b": WriteOrder(2, 7, 8).pack()}


def test_views_that_are_no_embeddings_are_not_marked(store):
    import pyarrow as pa

    view = views.item_features()
    row = {"item_id": "a", "source_version": 1, "event_timestamp": 1, "created": 1, "deleted": False}
    store.write_rows(view, pa.Table.from_pylist([row], view.table))
    store.delete(view, ["a"])
    assert marked(store) == []
