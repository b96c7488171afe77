"""The change stream's bytes: round trip, layout, damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide import Embeddings, EmbeddingSpace
from moontide.changes import HEAD_BYTES, change_key, pack_changes, split_key, unpack_change, unpack_changes
from moontide.errors import Poison
from moontide.order import WriteOrder
from moontide.records import embedding_rows

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 5)


def table(count, *, deleted=(), versions=None, hashes=None, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    gone = np.isin(np.arange(count), list(deleted))
    vectors[gone] = 0
    made = Embeddings.from_float(SPACE, vectors, ids=[f"i:{n}" for n in range(count)])
    times = {"event_timestamp": np.arange(count) + 10, "encoded_at": 3, "content_known_at": 4}
    return made, embedding_rows(
        made,
        source_version=np.arange(count) if versions is None else versions,
        content_hash=hashes or [f"{n:032x}" for n in range(count)],
        deleted=gone,
        **times,
    )


@pytest.mark.parametrize("count", [0, 1, 7])
def test_round_trip(count):
    made, rows = table(count, deleted={0, 3})
    values = pack_changes(SPACE, rows)
    assert [len(value) for value in values] == [55] * count
    got = unpack_changes(SPACE, made.ids, values)
    for field in ("codes", "scale", "inv_norm", "present"):
        assert np.array_equal(getattr(got.embeddings, field), getattr(made, field))
    assert got.embeddings.ids == made.ids
    assert got.deleted.tolist() == rows.column("deleted").to_pylist()
    for row in range(count):
        assert got.order(row) == WriteOrder(row, row + 10, 3, bytes.fromhex(f"{row:032x}"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(min_size=16, max_size=16), st.booleans()), min_size=1, max_size=6
    )
)
def test_the_order_key_compares_as_the_write_order(parts):
    versions = np.array([version for version, _, _ in parts], np.int64)
    gone = {n for n, (_, _, deleted) in enumerate(parts) if deleted}
    made, rows = table(len(parts), versions=versions, hashes=[digest.hex() for _, digest, _ in parts], deleted=gone)
    values = pack_changes(SPACE, rows)
    got = unpack_changes(SPACE, made.ids, values)
    orders = [WriteOrder(version, n + 10, 3, digest) for n, (version, digest, _) in enumerate(parts)]
    assert [got.order(row) for row in range(len(parts))] == orders
    assert [value[2:42] for value in values] == [order.pack() for order in orders]
    assert sorted(range(len(parts)), key=lambda n: values[n][2:42]) == sorted(range(len(parts)), key=lambda n: orders[n])
    assert np.array_equal(got.embeddings.codes, made.codes) and set(np.flatnonzero(got.deleted)) == gone


def test_the_documented_layout():
    made = Embeddings.from_float(SPACE, np.array([[1, -2, 0, 0, 4]], np.float32), ids=["a"])
    rows = embedding_rows(
        made, source_version=5, event_timestamp=6, encoded_at=7, content_known_at=8, content_hash=["0f" * 16], deleted=None
    )
    (value,) = pack_changes(SPACE, rows)
    assert value[:2] == b"\x01\x00" and HEAD_BYTES == 50
    assert value[2:42] == WriteOrder(5, 6, 7, b"\x0f" * 16).pack()
    assert value[42:46] == made.scale.astype("<f4").tobytes() and value[46:50] == made.inv_norm.astype("<f4").tobytes()
    assert value[50:] == np.array([32, -64, 0, 0, 127], np.int8).tobytes()


def test_keys():
    assert change_key(SPACE, "or:1") == b"moon_v1/or:1" and split_key(b"moon_v1/or:1") == ("moon_v1", "or:1")
    for key in (None, b"", b"moon_v1", b"/a", b"moon_v1/", b"moon_v1/a/b", b"\xff/a"):
        with pytest.raises(Poison, match="expected a key"):
            split_key(key)


def damaged(change):
    raw = bytearray(pack_changes(SPACE, table(1)[1])[0])
    change(raw)
    return bytes(raw)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        damaged(lambda raw: raw.__delitem__(-1)),
        damaged(lambda raw: raw.append(0)),
        damaged(lambda raw: raw.__setitem__(0, 2)),
        damaged(lambda raw: raw.__setitem__(1, 2)),
        damaged(lambda raw: raw.__setitem__(1, 1)),
        damaged(lambda raw: raw.__setitem__(50, raw[50] ^ 1)),
        damaged(lambda raw: raw.__setitem__(slice(46, 50), b"\x00\x00\xc0\x7f")),
    ],
)
def test_damage_is_seen(value):
    with pytest.raises(Poison, match="skip it"):
        unpack_change(SPACE, b"moon_v1/i:0", value)


def test_one_record():
    _, rows = table(1)
    (value,) = pack_changes(SPACE, rows)
    assert unpack_change(SPACE, b"moon_v1/i:0", value).embeddings.ids == ("i:0",)
    with pytest.raises(Poison, match="expected a key of moon_v1"):
        unpack_change(SPACE, b"moon_v2/i:0", value)


def test_a_bad_hash_is_refused():
    _, rows = table(2, hashes=["0f" * 15, "0f" * 17])
    with pytest.raises(ValueError, match="32 hex"):
        pack_changes(SPACE, rows)
