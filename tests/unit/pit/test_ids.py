"""Ids as rows of a sorted list, against a dictionary."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.pit import ids as ids_module
from moontide.pit.ids import Ids

pytestmark = pytest.mark.unit
#: Two texts joined by NUL are looked up as one; numpy cannot hold one that ends in it.
WORDS = st.lists(st.one_of(st.none(), st.text("ab:.ü\0", max_size=4).filter(lambda w: w[-1:] != "\0")), max_size=30)


@pytest.mark.parametrize("native", [True, False])
@settings(max_examples=150, deadline=None)
@given(known=WORDS, asked=WORDS, coded=st.booleans(), chunks=st.booleans(), start=st.integers(0, 3))
def test_rows_of_strings(native, known, asked, coded, chunks, start):
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(ids_module, "LIBRARY", None)
        check_rows_of_strings(known, asked, coded, chunks, start)


def check_rows_of_strings(known, asked, coded, chunks, start):
    ids = Ids.of([pa.array(known[:3], pa.string()), pa.array(known[3:], pa.string())])
    words = sorted({word for word in known if word is not None})
    assert len(ids) == len(words) and ids.strings().to_pylist() == words
    places = {word: at for at, word in enumerate(words)}
    # A slice, so that offsets into the buffers matter; a short column is looked up by another way than a long one.
    column = pa.array(asked, pa.string()).slice(start)
    column = column.dictionary_encode() if coded else column
    column = pa.chunked_array([column, column]) if chunks else column
    found = ids.rows(column)
    assert found.tolist() == [places.get(word, -1) for word in column.to_pylist()] and found.dtype == np.int64


def test_a_short_column_against_many_ids():
    ids = Ids.of([pa.array([f"item:{n}" for n in range(200)])])
    asked = ["item:7", None, "item:200", "item:70000000", "item:"]
    assert ids.rows(pa.array(asked)).tolist() == [sorted(f"item:{n}" for n in range(200)).index("item:7"), -1, -1, -1, -1]
    assert ids.strings(np.array([], np.int64)).to_pylist() == [] and ids.rows(pa.array([], pa.string())).tolist() == []
