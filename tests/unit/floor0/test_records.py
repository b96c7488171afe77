"""Rows of the embedding table and back."""

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace, schemas
from moontide.records import embedding_rows, embeddings_of

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 5)
TIMES = {"event_timestamp": 1, "encoded_at": 2, "content_known_at": 3}


@pytest.mark.parametrize("count", [0, 1, 7])
def test_round_trip(count):
    vectors = np.random.default_rng(count).normal(size=(count, 5)).astype(np.float32)
    before = Embeddings.from_float(SPACE, vectors, ids=[f"i{n}" for n in range(count)])
    rows = embedding_rows(before, source_version=np.arange(count), **TIMES)
    assert rows.schema == schemas.ITEM_EMBEDDING and rows.num_rows == count
    after = embeddings_of(SPACE, rows)
    assert after.ids == before.ids
    for field in ("codes", "scale", "inv_norm", "present"):
        assert np.array_equal(getattr(after, field), getattr(before, field))
    shown = np.array(rows.column("embedding").to_pylist(), np.float32).reshape(count, 5)
    assert np.array_equal(shown, before.to_float())


def test_tombstones_have_no_vector():
    gone = Embeddings.absent(SPACE, 1, ids=["a"])
    rows = embedding_rows(gone, source_version=4, deleted=np.array([True]), **TIMES)
    assert rows.column("deleted").to_pylist() == [True]
    assert not embeddings_of(SPACE, rows).present.any()
    alive = Embeddings.from_float(SPACE, np.ones((1, 5), np.float32), ids=["a"])
    with pytest.raises(ValueError, match="tombstones"):
        embedding_rows(alive, source_version=4, deleted=np.array([True]), **TIMES)
    with pytest.raises(ValueError, match="ids"):
        embedding_rows(Embeddings.absent(SPACE, 1), source_version=4, **TIMES)


def test_codes_of_another_dim_are_refused():
    rows = embedding_rows(Embeddings.absent(SPACE, 2, ids=["a", "b"]), source_version=1, **TIMES)
    with pytest.raises(ValueError, match="expected 6 codes"):
        embeddings_of(EmbeddingSpace("moon", 1, 6), rows)
