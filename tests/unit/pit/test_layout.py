"""Files of a training set: parts appear whole, what was written is read back, and another format is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Misconfigured
from moontide.pit import layout
from moontide.pit.training_set import read_training_set

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 4, "sha256:" + "ab" * 32)


def write(folder, *, rows=3, tiers=2, part_rows=2):
    """Two requests (label rows 4 to 6), two vectors (pointers 5 and 9)."""
    columns = layout.Columns(tiers, ("clicked",), ("age_days",))
    layout.write_whole(folder / layout.ITEMS, pa.table([[0, 1, 2], ["a", "b", "c"]], schema=layout.ITEMS_SCHEMA))
    vectors = Embeddings.from_float(SPACE, np.eye(4)[:2])
    table = [
        [5, 9], ["a", "c"], [1, 2], [10, 20], [bytes(row) for row in vectors.codes.view(np.uint8)], vectors.scale, vectors.inv_norm,
    ]  # fmt: skip
    schema = layout.vectors_schema(SPACE)
    arrays = [pa.array(values, field.type) for values, field in zip(table, schema, strict=True)]
    layout.write_whole(folder / layout.VECTORS, pa.table(arrays, schema=schema))
    requests = pa.table(
        [
            pa.array(column, field.type)
            for column, field in zip(
                [[4, 6], ["v", "u"], [100, 200], [7, 0], [[0, 2], []], [[5, -1], []], [[8, 9], []]],
                layout.REQUESTS_SCHEMA,
                strict=True,
            )
        ],
        schema=layout.REQUESTS_SCHEMA,
    )
    with layout.PartWriter(folder / layout.REQUESTS, layout.REQUESTS_SCHEMA) as out:
        out.write(requests)
    values = [
        [4, 5, 6],
        [4, 4, 6],
        [2, 1, 0],
        [9, -1, 5],
        [1, 0, 1],
        [1, 2, 0],
        [1, None, 0],
        [3, 4, 5],
        [[1, 0], [0, 0], [0, 0]],
    ]
    schema = columns.schema()
    arrays = [pa.array(v[:rows], f.type) for v, f in zip(values if tiers else values[:-1], schema, strict=True)]
    whole = pa.table(arrays, schema=schema)
    with layout.PartWriter(folder / layout.IMPRESSIONS, schema, rows=part_rows) as out:
        for at in range(rows):
            out.write(whole.slice(at, 1))
    layout.write_card(folder, {"rows": rows})


def test_what_was_written_is_read_back(tmp_path):
    write(tmp_path)
    assert len(layout.part_files(tmp_path / layout.IMPRESSIONS)) == 2
    got = read_training_set(tmp_path)
    assert got.user_ids == ("u", "v")
    assert got.item_ids == ("a", "b", "c")
    assert got.request_user.tolist() == [1, 0]
    assert got.request_time.tolist() == [100, 200]
    assert got.known.tolist() == [7, 0]
    assert got.history_offsets.tolist() == [0, 2, 2]
    assert got.history_items.tolist() == [0, 2]
    assert got.history_vectors.tolist() == [0, -1]
    assert got.history_times.tolist() == [8, 9]
    assert got.request.tolist() == [0, 0, 1]
    assert got.offsets.tolist() == [0, 2, 3]
    assert got.item.tolist() == [2, 1, 0]
    assert got.vector.tolist() == [1, -1, 0]
    assert got.label.tolist() == [1, 0, 1]
    assert got.label_row.tolist() == [4, 5, 6]
    assert np.array_equal(got.labels["clicked"], np.array([1, np.nan, 0], np.float32), equal_nan=True)
    assert got.scalars["age_days"].tolist() == [3, 4, 5]
    assert got.counts.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert got.missing.tolist() == [1, 2, 0]
    assert got.vectors is not None
    assert got.vectors.space == SPACE
    assert got.vectors.ids == ("a", "c")
    assert np.array_equal(got.vectors.codes, Embeddings.from_float(SPACE, np.eye(4)[:2]).codes)
    assert got.card["rows"] == 3


def test_a_set_without_rows_and_without_tiers_is_read(tmp_path):
    write(tmp_path, rows=0, tiers=0)
    assert pq.read_table(tmp_path / layout.IMPRESSIONS / "part-00000.parquet").num_rows == 0
    got = read_training_set(tmp_path)
    assert len(got) == 0
    assert got.counts.shape == (0, 0)
    assert got.offsets.tolist() == [0, 0, 0]


def test_a_part_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), layout.PartWriter(tmp_path / "x", layout.ITEMS_SCHEMA) as out:
        out.write(pa.table([[0], ["a"]], schema=layout.ITEMS_SCHEMA))
        raise RuntimeError
    assert list((tmp_path / "x").iterdir()) == []


def test_no_card_another_format_and_a_damaged_order_are_refused(tmp_path):
    with pytest.raises(Misconfigured, match=r"no card\.json"):
        read_training_set(tmp_path)
    write(tmp_path)
    parts = layout.part_files(tmp_path / layout.IMPRESSIONS)
    first = parts[0].read_bytes()
    parts[0].write_bytes(parts[1].read_bytes())
    parts[1].write_bytes(first)
    with pytest.raises(Misconfigured, match="rising rows"):
        read_training_set(tmp_path)
    (tmp_path / layout.CARD).write_text(json.dumps({"format_version": 2}))
    with pytest.raises(Misconfigured, match="format 1, got 2"):
        read_training_set(tmp_path)


def test_a_label_cannot_have_the_name_of_another_column():
    with pytest.raises(Misconfigured, match="rename the labels"):
        layout.Columns(2, ("missing",), ())
