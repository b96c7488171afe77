"""Vectors that must not be served, and how a batch that killed the encoder is taken apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders import Item
from moontide.embeddings import Embeddings
from moontide.spaces import EmbeddingSpace
from streaming.encoder_process import split
from streaming.gates import COLLAPSE, refused_vectors

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 4)


def vectors(*codes):
    rows = np.array(codes, np.int8).reshape(-1, 4)
    return Embeddings.from_codes(SPACE, rows, np.ones(len(rows), np.float32))


def reasons(items, found):
    return {row: why.reason for row, why in refused_vectors(items, found).items()}


def titles(*names):
    return [Item("x", title=name) for name in names]


def test_nothing_and_one():
    assert reasons([], vectors()) == {}
    assert reasons(titles("a"), vectors([1, 2, 3, 4])) == {}


def test_zero_vectors_are_zero_not_collapsed():
    assert reasons(titles(*"abcdefghij"), vectors(*[[0, 0, 0, 0]] * 10)) == dict.fromkeys(range(10), "vector_zero")


def test_alike_vectors_of_different_contents_are_refused_and_others_are_not():
    found = vectors([9, 9, 9, 9], *[[1, 2, 3, 4]] * COLLAPSE)
    assert reasons(titles("z", *"abcdefgh"), found) == dict.fromkeys(range(1, COLLAPSE + 1), "vector_collapsed")
    assert reasons(titles("z", *"abcdefg"), vectors([9, 9, 9, 9], *[[1, 2, 3, 4]] * (COLLAPSE - 1))) == {}


def test_alike_contents_may_have_alike_vectors():
    assert reasons(titles(*["same "] * 5, *["same"] * 15), vectors(*[[1, 2, 3, 4]] * 20)) == {}
    pictures = [Item("x", image=bytes([n])) for n in range(COLLAPSE)]
    assert len(reasons(pictures, vectors(*[[1, 2, 3, 4]] * COLLAPSE))) == COLLAPSE


@given(st.lists(st.integers(0, 99), min_size=2, max_size=40, unique=True), st.sets(st.integers(0, 60)))
def test_what_is_tried_next_is_smaller_and_complete(rows, suspects):
    parts = split(rows, sorted(suspects))
    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert all(0 < len(part) < len(rows) for part in parts)


def test_suspects_are_tried_alone_and_first():
    assert split([4, 5, 6, 7], [1, 3]) == [[5], [7], [4, 6]]
    assert split([4, 5, 6, 7], []) == split([4, 5, 6, 7], [0, 1, 2, 3]) == [[4, 5], [6, 7]]
