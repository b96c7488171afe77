"""Which version was valid at a time, against a loop over every row of the log."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Misconfigured, SpaceMismatch
from moontide.pit.ids import Ids
from moontide.pit.versions import VersionLog
from moontide.records import embedding_rows

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 4)
NAMES = ("a", "b", "c", "d")
TIMES = st.integers(0, 6)
#: item, source_version, event_timestamp, encoded_at, content_known_at, hash, kind (0 vector, 1 tombstone, 2 zero vector)
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), TIMES, TIMES, TIMES, st.integers(0, 2), st.sampled_from([0, 0, 0, 1, 2])),
    max_size=14,
)


def log_table(rows, space=SPACE):
    """Rows of the embedding log; the vector of row n is (n + 1, 1, 0, 0), so that it can be told from the others."""
    vectors = np.zeros((len(rows), space.dim))
    for at, row in enumerate(rows):
        if row[6] == 0:
            vectors[at, :2] = at + 1, 1
    ids = [NAMES[row[0]] for row in rows]
    _, version, event, encoded, known = (np.array([row[at] for row in rows], np.int64) for at in range(5))
    return embedding_rows(
        Embeddings.from_float(space, vectors, ids=ids), source_version=version, event_timestamp=event, encoded_at=encoded,
        content_known_at=known, content_hash=[f"{row[5]:032x}" for row in rows], deleted=np.array([row[6] == 1 for row in rows], bool),
    )  # fmt: skip


def oracle(rows, item, now):
    """The row that is valid, by the write rule."""
    best = None
    for at, (who, version, event, encoded, known, digest, _) in enumerate(rows):
        if who == item and max(event, known) <= now:
            order = (version, event, encoded, digest)
            if best is None or order > best[0]:
                best = (order, at)
    return -1 if best is None or rows[best[1]][6] else best[1]


@given(ROWS, st.sampled_from([1, 3, 100]))
@settings(max_examples=100, deadline=None)
def test_the_valid_row_is_the_highest_that_had_happened_and_was_known(rows, batch):
    rows = [row for at, row in enumerate(rows) if row[:4] + row[5:6] not in [r[:4] + r[5:6] for r in rows[:at]]]
    table = log_table(rows)
    items = Ids.of([pa.array(NAMES)])
    log = VersionLog.build([table.slice(at, batch) for at in range(0, len(rows), batch)], SPACE, items)
    asked = [(item, now) for item in range(4) for now in range(-1, 8)]
    item, now = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    expected = [oracle(rows, *query) for query in asked]
    assert log.at(item, now).tolist() == expected
    assert log.at(np.full(3, -1), np.arange(3)).tolist() == [-1, -1, -1]
    live = [at for at, row in enumerate(rows) if row[6] == 0]
    assert np.flatnonzero(log.vectors.present).tolist() == live


@given(ROWS)
@settings(max_examples=50, deadline=None)
def test_a_row_that_is_there_twice_counts_once(rows):
    items = Ids.of([pa.array(NAMES)])
    table = log_table(rows)
    once, twice = (VersionLog.build(t, SPACE, items) for t in ([table], [table, table]))
    item, now = np.repeat(np.arange(4), 8), np.tile(np.arange(8), 4)
    one, two = once.at(item, now), twice.at(item, now)
    assert np.array_equal(once.vectors.codes[one[one >= 0]], twice.vectors.codes[two[one >= 0]])
    assert np.array_equal(one < 0, two < 0)
    assert (two < max(len(rows), 1)).all()


def test_on_disk_it_is_the_same_and_other_items_are_left_out(tmp_path):
    rows = [(0, 1, 1, 1, 1, 0, 0), (1, 1, 2, 2, 2, 0, 0), (0, 2, 3, 9, 3, 0, 0), (3, 1, 1, 1, 1, 0, 1)]
    items = Ids.of([pa.array(["a", "d"])])
    table = log_table(rows)
    made = VersionLog.build([table.slice(0, 2), table.slice(2)], SPACE, items, folder=tmp_path / "log")
    found = VersionLog.open(tmp_path / "log")
    assert len(found) == len(made) == 3
    assert found.space == SPACE
    assert found.item.tolist() == [0, 0, 1]
    assert found.source_version.tolist() == [1, 2, 1]
    assert found.event_timestamp.tolist() == [1, 3, 1]
    item, now = np.repeat([0, 1], 5), np.tile(np.arange(5), 2)
    assert found.at(item, now).tolist() == made.at(item, now).tolist() == [-1, 0, 0, 1, 1, -1, -1, -1, -1, -1]
    assert np.array_equal(found.vectors.codes, made.vectors.codes)
    assert np.array_equal(found.vectors.inv_norm, made.vectors.inv_norm)


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_empty_log_knows_no_vector(tmp_path, on_disk):
    log = VersionLog.build([], SPACE, Ids.of([pa.array(["a"])]), folder=tmp_path if on_disk else None)
    assert log.at(np.array([0, -1]), np.array([5, 5])).tolist() == [-1, -1]
    assert log.vectors.codes.shape == (0, 4)
    if on_disk:
        assert len(VersionLog.open(tmp_path)) == 0


def test_a_prefix_is_cut_from_its_parents_log():
    parent = log_table([(0, 1, 1, 1, 1, 0, 0), (1, 1, 1, 1, 1, 0, 0)])
    log = VersionLog.build([parent], SPACE.prefix(2), Ids.of([pa.array(NAMES)]))
    assert [row.tobytes() for row in log.vectors.codes] == [row[:2] for row in parent["codes"].to_pylist()]
    assert np.array_equal(
        log.vectors.inv_norm, Embeddings.from_codes(SPACE.prefix(2), log.vectors.codes, log.vectors.scale).inv_norm
    )


def test_rows_of_another_space_or_width_are_refused():
    items = Ids.of([pa.array(["a"])])
    mixed = pa.concat_tables(
        [log_table([(0, 1, 1, 1, 1, 0, 0)]), log_table([(0, 2, 2, 2, 2, 0, 0)], EmbeddingSpace("moon", 2, 4))]
    )
    with pytest.raises(SpaceMismatch, match=r"moon_v1.*moon_v2"):
        VersionLog.build([mixed], SPACE, items)
    narrow = log_table([(0, 1, 1, 1, 1, 0, 0)], EmbeddingSpace("moon", 1, 3))
    with pytest.raises(SpaceMismatch, match="4 codes"):
        VersionLog.build([narrow], SPACE, items)
    odd = log_table([(0, 1, 1, 1, 1, 0, 0)])
    odd = odd.set_column(odd.column_names.index("content_hash"), "content_hash", pa.array(["xyz"]))
    with pytest.raises(Misconfigured, match="32 hex"):
        VersionLog.build([odd], SPACE, items)


def test_ids_are_rows_of_a_sorted_list():
    ids = Ids.of([pa.array(["b", None, "a"]), pa.array(["longer", "b"]).dictionary_encode()])
    assert ids.strings().to_pylist() == ["a", "b", "longer"]
    assert ids.rows(pa.array(["longer", "b", None, "x" * 30, "", "a"])).tolist() == [2, 1, -1, -1, -1, 0]
    assert ids.rows(pa.array([], pa.string())).tolist() == []
    assert ids.strings(np.array([2, 0])).to_pylist() == ["longer", "a"]
    none = Ids.of([])
    assert len(none) == 0
    assert none.rows(pa.array(["a"])).tolist() == [-1]
    assert none.strings().to_pylist() == []
