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


WORDS = st.lists(
    st.builds(Behaviour, st.integers(-(2**63), 2**63 - 1), st.sampled_from(["a", "bc", "d-9"]), st.text(max_size=4)), max_size=9
)


@given(WORDS, WORDS)
def test_an_unpacked_sequence_is_the_one_that_was_packed(rows, more):
    sequence = BehaviourSequence().merge(rows, length=50)
    for got in (
        BehaviourSequence.unpack(sequence.pack()),
        BehaviourSequence.unpack(memoryview(sequence.pack()), version=sequence.version),
    ):
        assert got.item_ids == sequence.item_ids == tuple(b.item_id for b in sequence.behaviours)
        assert got.last_time == sequence.last_time == (sequence.behaviours[-1].time if sequence.behaviours else 0)
        assert got.version == sequence.version and got.pack() == sequence.pack()
        assert got.behaviours == sequence.behaviours and all(isinstance(b, Behaviour) for b in got.behaviours)
        assert got == sequence and hash(got) == hash(sequence) and repr(got) == repr(sequence)
        assert got.merge(more, length=5) == sequence.merge(more, length=5)
        assert (got == BehaviourSequence.unpack(BehaviourSequence().merge(more, length=50).pack())) == (set(rows) == set(more))
    assert sequence != rows


@given(WORDS.filter(len), st.data())
def test_bytes_that_end_early_or_late_are_refused(rows, data):
    packed = BehaviourSequence().merge(rows, length=50).pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + b"x"):
        with pytest.raises(Misconfigured, match="packed sequence"):
            BehaviourSequence.unpack(wrong)


def test_texts_that_are_not_utf8_are_refused():
    packed = BehaviourSequence((Behaviour(1, "x", "buy"),)).pack()
    with pytest.raises(Misconfigured, match="packed sequence"):
        BehaviourSequence.unpack(packed[:-1] + b"\xff")
