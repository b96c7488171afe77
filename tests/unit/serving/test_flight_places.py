"""Places of streams: an idle one gives way, a busy one never."""

from contextlib import ExitStack

import pytest

from serving.flight_places import Places
from serving.http.problems import Problem

pytestmark = pytest.mark.unit


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_idle_stream_loses_its_place_only_to_one_that_wants_it():
    clock = Clock()
    places = Places(2, 60.0, clock)
    with places.one() as idle, places.one() as busy:
        clock.now = 59.0
        busy.goes_on()
        with pytest.raises(Problem, match="at most 2 at once"), places.one():
            pass
        clock.now = 61.0
        idle.goes_on()
        clock.now = 118.0
        busy.goes_on()
        clock.now = 121.0
        with places.one() as third:
            third.goes_on()
            busy.goes_on()
            with pytest.raises(Problem, match="progress within 60 s"):
                idle.goes_on()
            with pytest.raises(Problem, match="at most 2 at once"), places.one():
                pass
        with places.one():
            pass


def test_as_many_idle_streams_as_places_wear_it_out_until_they_end():
    clock = Clock()
    places = Places(2, 60.0, clock)
    with ExitStack() as streams:
        for at in range(4):
            assert not places.worn_out
            clock.now = 100.0 * at
            streams.enter_context(places.one())
        assert places.worn_out
        clock.now = 1_000.0
        with pytest.raises(Problem) as caught:
            streams.enter_context(places.one())
        assert caught.value.kind == "busy"
    assert not places.worn_out
    with places.one(), places.one():
        pass
