"""The pauses between tries: they grow, stay within their bounds, and differ among consumers."""

from random import Random

import pytest

from moontide.errors import Transient
from streaming.metrics import Metrics
from streaming.patience import FIRST_PAUSE, LAST_PAUSE, GivenUp, Patience
from streaming.state import State

pytestmark = pytest.mark.unit


class Event:
    """Notes how long is waited for it, and waits not at all; set after `most` waits."""

    def __init__(self, most=10_000):
        self.waits, self.most = [], most

    def wait(self, seconds):
        self.waits.append(seconds)
        return len(self.waits) > self.most


def pauses(seed, failures):
    """Seconds waited after each of so many failures in a row."""
    state, failed = State(random=Random(seed), giving_up=Event()), []
    patience = Patience(state, Metrics(), "worker")
    for _ in range(failures):
        before = len(state.giving_up.waits)
        patience.failed("online", Transient("store: expected an answer, got none"))
        failed.append(sum(state.giving_up.waits[before:]))
    return failed


def test_each_pause_is_drawn_from_the_upper_half_of_its_bound():
    bounds = [min(FIRST_PAUSE * 2**n, LAST_PAUSE) for n in range(9)]
    drawn = [pauses(seed, len(bounds)) for seed in range(50)]
    for bound, found in zip(bounds, zip(*drawn, strict=True), strict=True):
        assert bound / 2 <= min(found) < 0.6 * bound and 0.9 * bound < max(found) <= bound + 1e-9
    assert len({tuple(each) for each in drawn}) == len(drawn)
    assert pauses(3, 5) == pauses(3, 5)


def test_after_a_success_the_next_pause_is_short_again():
    state = State(random=Random(1), giving_up=Event())
    patience, tries = Patience(state, Metrics(), "worker"), iter([True, True, True, False, True, False])

    def call():
        if next(tries):
            raise Transient("store: expected an answer, got none")
        return len(state.giving_up.waits)

    first, second = (patience.run("online", call) for _ in range(2))
    assert second == first + 1 and FIRST_PAUSE / 2 <= state.giving_up.waits[-1] <= FIRST_PAUSE
    assert state.waiting == {} and "worker" in state.beats


def test_what_is_given_up_waits_no_longer():
    state = State(random=Random(1), giving_up=Event(most=3))
    with pytest.raises(GivenUp, match="expected an answer"):
        Patience(state, Metrics(), "worker").run("online", lambda: (_ for _ in ()).throw(Transient("expected an answer")))
    assert len(state.giving_up.waits) == 4
