"""The index step of a backfill, over the in-memory store and index."""

import numpy as np
import pytest

from jobs._index import update_index
from moontide import Embeddings, EmbeddingSpace, views
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.index_memory import MemoryIndex

pytestmark = pytest.mark.unit
NOW = 1_700_000_000_000_000


def fill(store, space, count):
    vectors = Embeddings.from_float(space, np.eye(8, dtype=np.float32)[:count], ids=[f"i{n}" for n in range(count)])
    rows = embedding_rows(vectors, source_version=1, event_timestamp=NOW, encoded_at=NOW, content_known_at=NOW)
    store.write_rows(views.embedding_view(space), rows)


def test_the_first_space_gets_the_alias_and_a_second_one_leaves_it():
    store, index = online_store(Settings(online="memory")), MemoryIndex()
    blue, green = EmbeddingSpace("moon", 1, 8), EmbeddingSpace("moon", 2, 8)
    for space in (blue, green):
        index.ensure(space)
        fill(store, space, 5)
        assert update_index(store, index, space).upserted == 5
        assert index.count(space) == 5
        assert index.resolve_alias("moon") == "moon_v1"


def test_a_second_step_does_nothing_and_a_lost_row_comes_back():
    store, index = online_store(Settings(online="memory")), MemoryIndex()
    space = EmbeddingSpace("moon", 1, 8)
    index.ensure(space)
    fill(store, space, 3)
    update_index(store, index, space)
    assert update_index(store, index, space).upserted == 0
    index.delete(space, ["i1"])
    assert update_index(store, index, space).upserted == 1
    assert index.tokens(space, ["i1"])[0] is not None
