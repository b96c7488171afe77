"""Frames between consumer and encoder process: what is sound comes back, and nothing else is believed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders import Item
from moontide.spaces import EmbeddingSpace
from streaming.encoder_wire import (
    HEADER,
    Answer,
    Garbled,
    Kind,
    answer_limit,
    frame,
    pack_answer,
    pack_items,
    pack_space,
    read_header,
    unpack_answer,
    unpack_items,
    unpack_space,
)

pytestmark = pytest.mark.unit
DIM = 4
text = st.none() | st.text(st.characters(), max_size=8)  # lone surrogates too
price = st.none() | st.floats(allow_nan=False)
items = st.lists(st.builds(Item, st.just("x"), text, text, text, st.none() | st.binary(max_size=9), price, text), max_size=5)


@given(items)
def test_items_come_back_under_their_rows(batch):
    data = b"".join(pack_items(batch, 7))
    kind, sequence, length = read_header(data[: HEADER.size], limit=1 << 20)
    assert (kind, sequence, length) == (Kind.ITEMS, 7, len(data) - HEADER.size)
    back = unpack_items(data[HEADER.size :])
    assert [i.item_id for i in back] == [str(row) for row in range(len(batch))]
    assert back == [replace(item, item_id=str(row)) for row, item in enumerate(batch)]


def test_a_path_is_no_image():
    with pytest.raises(ValueError, match="bytes"):
        pack_items([Item("x", image="a.png")], 0)


def answer(rows=(0, 2), rejects=None, scale=1.0, code=3):
    codes = np.full((len(rows), DIM), code, np.int8)
    return Answer(tuple(rows), codes, np.full(len(rows), scale, np.float32), rejects or {1: ("no_content", "expected text")})


@given(st.sets(st.integers(0, 9)), st.text(max_size=600))
def test_answers_come_back(rows, detail):
    rejects = {row: ("image_unreadable", detail) for row in range(10) if row not in rows}
    body = pack_answer(answer(sorted(rows), rejects or None) if rejects else Answer(tuple(range(10)), *whole(), {}))
    assert len(body) <= answer_limit(10, DIM)
    back = unpack_answer(body, 10, DIM)
    assert back.rows == tuple(sorted(rows))
    assert set(back.rejects) == set(rejects)
    assert (back.codes == 3).all()


def whole():
    return np.full((10, DIM), 3, np.int8), np.ones(10, np.float32)


def test_no_items_at_all():
    empty = Answer((), np.zeros((0, DIM), np.int8), np.zeros(0, np.float32), {})
    assert unpack_answer(pack_answer(empty), 0, DIM).rows == ()
    assert unpack_items(b"".join(pack_items([], 0))[HEADER.size :]) == []


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (answer(), 2),
        (answer(), 4),
        (answer(rows=(2, 0)), 3),
        (answer(rows=(0, 0)), 3),
        (answer(rows=(0, 1)), 3),
        (answer(scale=np.nan), 3),
        (answer(scale=np.inf), 3),
        (answer(scale=-1), 3),
        (answer(code=-128), 3),
        (answer(rejects={1: ("rm -rf", "")}), 3),
    ],
)
def test_an_answer_that_cannot_be_is_garbled(made, count):
    with pytest.raises(Garbled):
        unpack_answer(pack_answer(made), count, DIM)


@given(st.data())
def test_no_bytes_do_more_than_be_garbled(data):
    """Cut, stretched or with bytes changed: the same answer, another valid one, or `Garbled`; never another error."""
    body = bytearray(pack_answer(answer()))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))]) + data.draw(st.binary(max_size=8))
    try:
        back = unpack_answer(cut, 3, DIM)
    except Garbled:
        return
    assert sorted([*back.rows, *back.rejects]) == [0, 1, 2]
    assert np.isfinite(back.scale).all()


@given(st.binary(max_size=64))
def test_random_bytes_are_garbled(body):
    for read in (lambda: unpack_answer(body, 1, DIM), lambda: unpack_space(body)):
        with pytest.raises(Garbled):
            read()
    head = body[: HEADER.size].ljust(HEADER.size, b"\0")
    with pytest.raises(Garbled):
        read_header(head, limit=100)


def test_a_frame_that_is_too_long_is_not_read():
    head = frame(Kind.VECTORS, 1, bytes(100))[: HEADER.size]
    assert read_header(head, limit=100) == (Kind.VECTORS, 1, 100)
    with pytest.raises(Garbled):
        read_header(head, limit=99)


@pytest.mark.parametrize("digest", ["", "sha256:" + "a" * 64])
def test_spaces_come_back(digest):
    space = EmbeddingSpace("moon", 3, 16, digest)
    assert unpack_space(pack_space(space)) == space


def test_control_characters_of_a_child_do_not_reach_the_log():
    back = unpack_answer(pack_answer(answer(rejects={1: ("no_content", "a\x1b[31m\nERROR b")})), 3, DIM)
    assert back.rejects[1][1] == "a [31m ERROR b"
