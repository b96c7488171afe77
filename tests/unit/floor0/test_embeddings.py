"""The int8 codec and the batch type."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moontide import Embeddings, EmbeddingSpace, Misconfigured, Poison, SpaceMismatch
from moontide.embeddings import concat

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 3, 6)
FLOATS = arrays(np.float32, st.tuples(st.integers(0, 5), st.just(6)), elements=st.integers(-(2**20), 2**20).map(lambda n: n / 7))


@settings(max_examples=200, deadline=None)
@given(FLOATS)
def test_codes_are_within_half_a_step_and_presence_follows(vectors):
    e = Embeddings.from_float(SPACE, vectors)
    assert (np.abs(e.to_float() - vectors) <= e.scale[:, None] * 0.5001).all()
    assert (np.abs(e.codes.astype(int)).max(axis=1, initial=0) <= 127).all()
    assert np.array_equal(e.present, e.inv_norm > 0)
    assert np.array_equal(e.present, e.codes.any(axis=1))


@settings(max_examples=100, deadline=None)
@given(FLOATS)
def test_quantising_the_shown_vector_again_gives_the_same_codes(vectors):
    e = Embeddings.from_float(SPACE, vectors)
    again = Embeddings.from_float(SPACE, e.to_float())
    assert np.array_equal(e.codes, again.codes)
    assert np.array_equal(e.inv_norm, again.inv_norm)


def test_a_vector_too_small_for_a_scale_is_not_present():
    e = Embeddings.from_float(SPACE, np.full((1, 6), 1e-42, np.float32))
    assert not e.present[0] and not e.codes.any()


def test_zero_vector_is_not_present():
    e = Embeddings.from_float(SPACE, np.zeros((1, 6), np.float32))
    assert not e.present[0] and e.scale[0] == 0 and e.inv_norm[0] == 0 and not e.codes.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_is_poison_and_names_the_row(bad):
    vectors = np.ones((3, 6), np.float32)
    vectors[1, 4] = bad
    with pytest.raises(Poison, match="row 1"):
        Embeddings.from_float(SPACE, vectors)


@pytest.mark.parametrize("shape", [(2, 5), (6,), (1, 2, 6)])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="from_float"):
        Embeddings.from_float(SPACE, np.ones(shape, np.float32))


def test_prefix_keeps_codes_and_has_its_own_norm():
    e = Embeddings.from_float(SPACE, np.arange(12, dtype=np.float32).reshape(2, 6) + 1, ids=["a", "b"])
    p = e.prefix(2)
    assert p.space.id == "moon_v3_d2" and p.space.view == SPACE.view and p.ids == ("a", "b")
    assert np.array_equal(p.codes, e.codes[:, :2])
    assert p.inv_norm[0] == np.float32(1 / np.sqrt(np.float64((p.codes[0].astype(int) ** 2).sum())))
    assert p.space.prefix(1).prefix_of == 6
    with pytest.raises(Misconfigured):
        e.prefix(6)


def test_take_and_concat_keep_rows_and_ids():
    e = Embeddings.from_float(SPACE, np.eye(6, dtype=np.float32), ids=list("abcdef"))
    back = concat([e.take(slice(0, 2)), e.take(np.array([2, 3])), e.take(np.arange(6) >= 4)])
    assert back.ids == e.ids and np.array_equal(back.codes, e.codes)
    assert len(e.take(slice(0, 0))) == 0
    with pytest.raises(SpaceMismatch):
        concat([e, Embeddings.absent(EmbeddingSpace("moon", 4, 6), 1)])
    with pytest.raises(ValueError, match="at least one"):
        concat([])


@pytest.mark.parametrize("args", [("Moon", 1, 8), ("moon", 0, 8), ("moon", 1, 0), ("moon", 1, 8, "sha1:00"), ("moon_v1", 1, 8)])
def test_bad_spaces_are_refused(args):
    with pytest.raises(Misconfigured):
        EmbeddingSpace(*args)


def test_wrong_dtype_or_ids_are_refused():
    e = Embeddings.absent(SPACE, 2)
    with pytest.raises(ValueError, match="dtypes"):
        Embeddings(SPACE, e.codes, e.scale.astype(np.float64), e.inv_norm, e.present)
    with pytest.raises(ValueError, match="ids"):
        e.with_ids(["only one"])
