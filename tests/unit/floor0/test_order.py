"""The total order of writes and its packed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontide.order import KEY_BYTES, ORDER_DTYPE, Outcome, WriteOrder, biased, compare, unbiased

pytestmark = pytest.mark.unit
INT64 = st.integers(-(2**63), 2**63 - 1)
ORDERS = st.builds(WriteOrder, INT64, INT64, INT64, st.binary(min_size=16, max_size=16))


@given(ORDERS, ORDERS)
def test_bytes_sort_as_the_order_does(a, b):
    assert (a.pack() < b.pack()) == (a < b)
    expected = Outcome.EQUAL if a == b else Outcome.APPLIED if a > b else Outcome.STALE
    assert compare(a.pack() + b"body", b.pack() + b"other") == expected


@given(ORDERS)
def test_pack_round_trips_and_numpy_reads_it(order):
    packed = order.pack()
    assert len(packed) == KEY_BYTES == ORDER_DTYPE.itemsize
    assert WriteOrder.unpack(packed + b"rest") == order
    row = np.frombuffer(packed, ORDER_DTYPE)
    assert unbiased(row["source_version"])[0] == order.source_version
    assert row["content_hash"].tobytes() == order.content_hash


@given(st.lists(INT64))
def test_bias_round_trips_and_keeps_order(values):
    array = np.array(values, np.int64)
    assert np.array_equal(unbiased(biased(array)), array)
    assert np.array_equal(np.argsort(array, kind="stable"), np.argsort(biased(array), kind="stable"))


def test_nothing_stored_means_applied():
    assert compare(WriteOrder(0, 0, 0).pack(), None) == Outcome.APPLIED
