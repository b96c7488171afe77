"""Sequence merge: the same content and version whatever the order of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontide import Misconfigured
from moontide.sequences import Behaviour, BehaviourSequence

pytestmark = pytest.mark.unit
BEHAVIOURS = st.lists(
    st.builds(Behaviour, st.integers(0, 30), st.sampled_from("abc"), st.sampled_from(["click", "buy"])), max_size=30
)


@given(BEHAVIOURS, st.randoms(use_true_random=False), st.integers(1, 40))
def test_any_split_and_order_merges_to_the_same_sequence(rows, random, length):
    expected = BehaviourSequence(tuple(sorted(set(rows))[-length:]))
    shuffled = rows[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(rows))
    got = BehaviourSequence().merge(shuffled[:cut], length=length).merge(shuffled[cut:], length=length)
    assert got == expected
    assert got.version == expected.version


@given(BEHAVIOURS)
def test_pack_round_trips(rows):
    sequence = BehaviourSequence().merge(rows, length=50)
    assert BehaviourSequence.unpack(sequence.pack()) == sequence


def test_version_follows_content_only():
    a = BehaviourSequence((Behaviour(1, "x", "buy"),))
    assert a.version != BehaviourSequence((Behaviour(2, "x", "buy"),)).version
    assert a.version != BehaviourSequence((Behaviour(1, "x", "click"),)).version
    assert a.version != BehaviourSequence().version
    assert -(2**63) <= a.version < 2**63


def test_cut_bytes_are_refused():
    packed = BehaviourSequence((Behaviour(1, "item", "buy"),)).pack()
    with pytest.raises(Misconfigured, match="packed sequence"):
        BehaviourSequence.unpack(packed[:3])
    with pytest.raises(Misconfigured):
        BehaviourSequence.unpack(packed[:14])
