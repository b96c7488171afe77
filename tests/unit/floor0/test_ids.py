"""Ids are looked at together, and judged as each alone would be."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moontide import Poison, names

pytestmark = pytest.mark.unit
ANY = st.one_of(
    st.from_regex(re.compile(names.ID_PATTERN), fullmatch=True),
    st.text(max_size=70),
    st.sampled_from(["a\n", "", "a" * 64, "a" * 65]),
)


@given(st.lists(ANY, max_size=6))
@example(["a", ""])
@example(["a" * 65, "b"])
@example(["a" * 64, "é"])
def test_all_are_valid_where_each_is(values):
    bad = [value for value in values if not names.is_id(value)]
    if not bad:
        assert names.require_ids(iter(values)) == values
        return
    with pytest.raises(Poison) as stop:
        names.require_ids(values)
    assert repr(bad[0][:80]) in str(stop.value)


@pytest.mark.parametrize("wrong", [None, 7, b"a", ["a"]])
def test_what_is_no_text_is_no_id(wrong):
    with pytest.raises(Poison, match="item_id"):
        names.require_ids(["a", wrong])
