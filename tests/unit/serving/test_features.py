"""`Features`: arrays that leave without a copy, and mean the same in numpy, Arrow and torch."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from moontide import Embeddings, EmbeddingSpace
from moontide.simtier import TierCounts
from serving.features import Features

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 8)


def made(count):
    rng = np.random.default_rng(count)
    vectors = Embeddings.from_float(SPACE, rng.normal(size=(count, 8)) * (np.arange(count) % 3 != 1)[:, None])
    tiers = TierCounts(rng.integers(0, 9, (count, 4)).astype(np.int32), rng.integers(0, 9, count).astype(np.int32))
    fields = {
        "price": pa.array([None if n % 2 else n / 2 for n in range(count)], pa.float64()),
        "has_image": pa.array([n % 2 == 0 for n in range(count)], pa.bool_()),
        "category": pa.array([f"c{n}" for n in range(count)], pa.string()),
    }
    return Features(tuple(f"i{n}" for n in range(count)), vectors, tiers, fields, {"service": "s"})


@pytest.mark.parametrize("count", [0, 1, 7])
def test_arrow_has_every_value_and_null_where_there_is_no_vector(count):
    features = made(count)
    table = features.to_arrow()
    assert len(features) == table.num_rows == count and table.schema.metadata == {b"service": b"s"}
    assert table.column("item_id").to_pylist() == list(features.item_ids)
    for row, vector in enumerate(table.column("embedding").to_pylist()):
        assert (vector is None) == (not features.present[row]) == (row % 3 == 1)
        assert vector is None or vector == features.embeddings[row].tolist()
    assert table.column("counts").to_pylist() == features.counts.tolist()
    assert table.column("missing").to_pylist() == features.missing.tolist()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert table.schema.field("counts").type == pa.list_(pa.int32(), 4)
    assert table.column("category").to_pylist() == [f"c{n}" for n in range(count)]


def test_arrow_and_torch_share_the_memory():
    features = made(7)
    table, tensors = features.to_arrow(), features.to_torch()
    for name, values in (("embedding", features.embeddings), ("counts", features.counts)):
        assert table.column(name).chunk(0).values.buffers()[1].address == values.ctypes.data
        assert tensors[name].data_ptr() == values.ctypes.data
    assert table.column("missing").chunk(0).buffers()[1].address == features.missing.ctypes.data == tensors["missing"].data_ptr()


def test_torch_has_numbers_and_no_texts():
    features = made(5)
    tensors = features.to_torch()
    assert set(tensors) == {"embedding", "embedding_present", "counts", "missing", "price", "has_image"}
    assert tensors["embedding"].dtype == torch.float32 and tensors["embedding_present"].dtype == torch.bool
    assert tensors["counts"].dtype == tensors["missing"].dtype == torch.int32
    assert tensors["price"].isnan().tolist() == [False, True, False, True, False]
    assert tensors["has_image"].tolist() == [1, 0, 1, 0, 1]
    assert not tensors["embedding"][1].any() and tensors["embedding"].numpy().shape == (5, 8)


def test_vectors_that_may_not_be_written_are_copied_for_torch():
    features = made(3)
    features.counts.flags.writeable = False
    tensors = features.to_torch()
    tensors["counts"][0, 0] = 99
    assert features.counts[0, 0] != 99


def test_torch_of_nothing():
    assert {name: tuple(t.shape)[0] for name, t in made(0).to_torch().items()}.keys() >= {"embedding", "price"}
