"""Which server a call goes to, how often and for how long; with a clock that the test moves."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontide import Misconfigured
from moontide.client.calls import Addresses, Call, Patience
from moontide.client.wire import Unavailable

pytestmark = pytest.mark.unit
URLS = ["http://a:1", "http://b:1", "http://c:1"]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def patience(clock, **values):
    return Patience(clock=clock, random=lambda: 0.5, **values)


def run(addresses, rules, key="u", seconds=1.0, fails=lambda url: True, cost=0.0, retry_after=None, gone=False):
    """Attempts of one call against servers of which some fail; ends as the call does."""
    call, made = Call(addresses, key, seconds, rules), []
    while True:
        try:
            attempt = call.next()
        except Unavailable as error:
            return made, error
        made.append(attempt)
        rules.clock.now += attempt.wait + cost
        if not fails(attempt.url):
            call.answered(attempt)
            return made, None
        call.failed(attempt, Unavailable(f"{attempt.url} failed", retry_after=retry_after), gone)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6, unique=True), st.data())
def test_a_key_keeps_its_address_when_another_goes_and_moves_nowhere_else_when_one_comes(numbers, data):
    urls = [f"http://host-{n}:8080" for n in numbers]
    gone = data.draw(st.sampled_from(urls))
    rules = Patience()
    before, after = Addresses(urls, rules), Addresses([u for u in urls if u != gone], rules)
    for n in range(50):
        first, then = before.ranked(f"u{n}")[0], after.ranked(f"u{n}")[0]
        assert then == (first if first != gone else before.ranked(f"u{n}")[1])


def test_keys_are_spread_evenly_and_the_order_of_urls_does_not_matter():
    one, other = Addresses(URLS, Patience()), Addresses(URLS[::-1], Patience())
    firsts = [one.ranked(f"u:{n}")[0] for n in range(3_000)]
    assert firsts == [other.ranked(f"u:{n}")[0] for n in range(3_000)]
    assert all(900 < count < 1_100 for count in Counter(firsts).values())


def test_long_urls_that_differ_at_their_end_are_different():
    urls = [f"http://{'x' * 200}.example/{n}" for n in range(4)]
    assert len({Addresses(urls, Patience()).ranked(f"u{n}")[0] for n in range(50)}) == 4


def test_each_address_is_asked_once_before_any_is_asked_twice(clock):
    rules = patience(clock, attempts=7)
    made, error = run(Addresses(URLS, rules), rules, seconds=60.0)
    assert [Counter(a.url for a in made[n : n + 3]).total() for n in (0, 3)] == [3, 3]
    assert set(a.url for a in made[:3]) == set(a.url for a in made[3:6]) == set(URLS)
    assert len(made) == 7 and error is not None
    # The first round at once; then 0.02 * 2^round * 0.5.
    assert [a.wait for a in made] == pytest.approx([0, 0, 0, 0.01, 0.01, 0.01, 0.02])


def test_waits_stop_growing(clock):
    rules = patience(clock, attempts=9, longest_wait=0.1)
    made, _ = run(Addresses(URLS[:1], rules), rules, seconds=60.0)
    assert [a.wait for a in made] == pytest.approx([0, 0.01, 0.02, 0.04, 0.05, 0.05, 0.05, 0.05, 0.05])


def test_no_attempt_begins_after_the_deadline_and_none_may_last_longer(clock):
    rules = patience(clock, attempts=100)
    start = clock.now
    made, error = run(Addresses(URLS[:1], rules), rules, seconds=1.0, cost=0.3)
    assert error is not None and len(made) == 4
    assert made[0].seconds == pytest.approx(1.0)
    assert clock.now - start <= 1.0 + 0.3


def test_another_address_left_means_that_no_attempt_takes_all_the_time(clock):
    rules = patience(clock)
    call = Call(Addresses(URLS[:2], rules), "u", 1.0, rules)
    first = call.next()
    assert first.seconds == pytest.approx(0.5)
    clock.now += 0.5
    call.failed(first, Unavailable("slow"))
    second = call.next()
    assert second.url != first.url and second.seconds == pytest.approx(0.5)


def test_retry_after_is_waited_for_or_raised(clock):
    rules = patience(clock)
    made, error = run(Addresses(URLS[:1], rules), rules, seconds=10.0, retry_after=2.0)
    assert [a.wait for a in made] == [0, 2.0, 2.0, 2.0]
    made, error = run(Addresses(URLS[:1], rules), rules, seconds=1.0, retry_after=2.0)
    assert len(made) == 1 and error.retry_after == 2.0


def test_one_that_does_not_listen_is_avoided_then_tried_by_one_call(clock):
    rules = patience(clock, avoid=5.0)
    addresses = Addresses(URLS, rules)
    home = addresses.ranked("u")[0]
    down = {home}
    made, error = run(addresses, rules, fails=down.__contains__, gone=True)
    assert error is None and len(made) == 2
    assert [a.url for a in run(addresses, rules, fails=down.__contains__)[0]] == [addresses.ranked("u")[1]]
    clock.now += 5.1
    probe, bystander = Call(addresses, "u", 1.0, rules), Call(addresses, "u", 1.0, rules)
    asked = probe.next()
    assert asked.url == home and bystander.next().url != home
    probe.answered(asked)
    assert Call(addresses, "u", 1.0, rules).next().url == home


def test_a_single_lost_connection_moves_nobody(clock):
    rules = patience(clock)
    addresses = Addresses(URLS, rules)
    home = addresses.ranked("u")[0]
    failures = iter([True])
    made, error = run(addresses, rules, fails=lambda url: next(failures, False))
    assert error is None and made[0].url == home
    assert Call(addresses, "u", 1.0, rules).next().url == home


def test_with_every_address_avoided_the_calls_still_go_out(clock):
    rules = patience(clock)
    addresses = Addresses(URLS, rules)
    run(addresses, rules, gone=True)
    made, error = run(addresses, rules, fails=lambda url: False)
    assert error is None and made[0].url == addresses.ranked("u")[0]


@pytest.mark.parametrize("urls", [[], ["a:1"], ["ftp://a"], ["http://a", "http://a/"]])
def test_what_is_no_list_of_urls_is_refused(urls):
    with pytest.raises(Misconfigured, match="expected http"):
        Addresses(urls, Patience())
