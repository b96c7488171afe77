"""Sets of row numbers by fingerprint: equal for equal sets in any order, different for a lost, doubled or foreign row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.pit.card import Fingerprint, Tally

pytestmark = pytest.mark.unit


def fingerprint(*parts):
    made = Fingerprint()
    for part in parts:
        made.add(np.array(part, np.int64))
    return made


@given(st.permutations(list(range(12))), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_parts_in_any_order_are_the_whole(rows, cut):
    assert fingerprint(rows[:cut]) + fingerprint(rows[cut:]) == Fingerprint.below(12)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 2, 2], [0, 1, 3], [0, 0, 3], [], [0, 1, 2, 3]])
def test_another_set_is_another_fingerprint(rows):
    assert fingerprint(rows) != Fingerprint.below(3)


def test_nothing_has_a_card_without_shares():
    card = Tally(0, 0, (), None).card()
    assert (card["rows"], card["time"], card["coverage"]["impressions"]) == (0, None, None)
    assert Fingerprint.below(0) == fingerprint()
