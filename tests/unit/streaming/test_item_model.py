"""Random streams, cuts, reorders and replays of item events against a model that keeps the highest event of each item."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import Item, hash_content
from moontide.records import NO_CONTENT_HASH
from tests.item_world import BLUE, GREEN, NOW, World, again, message, remove, upsert, vector

pytestmark = pytest.mark.unit
ITEMS = ("a", "b", "c")

#: (item, version, text or None for a delete, poison): one event per item and version, as a log position promises.
drawn = st.lists(
    st.tuples(st.sampled_from(ITEMS), st.integers(1, 9), st.sampled_from(["x", "y", "refuse", None, None])),
    max_size=14,
    unique_by=lambda e: e[:2],
)


def sent_of(event, clock):
    item, version, text = event
    at = NOW + clock(version)
    if text is None:
        return remove(item, version, at)
    return upsert(item, version, at, title=text)


def expected(events):
    """Version and text (None: deleted) of each item."""
    out = {}
    for item, version, text in sorted(events, key=lambda e: e[1]):
        if text != "refuse":
            out[item] = (version, text)
    return out


def check(world, events, clock=None):
    want = expected(events)
    for space in (BLUE, GREEN):
        for item in ITEMS:
            record = world.record(item, space)
            if item not in want:
                assert record is None
                continue
            version, text = want[item]
            digest = NO_CONTENT_HASH if text is None else hash_content(Item(item, text), None)
            assert (record["source_version"], record["content_hash"], record["deleted"]) == (version, digest, text is None)
            if text is not None:
                assert record["codes"] == vector(space, digest).tobytes()
            if clock is not None:
                assert world.heads([item], space)[0][2] == NOW + clock(version)
            features = world.features(item)
            assert (features["source_version"], features["has_text"]) == (version, None if text is None else True)


@settings(max_examples=50, deadline=None)
@given(drawn, st.randoms(use_true_random=False), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_any_order_cut_and_replay_ends_at_the_highest_event(events, random, cut, batch, rising):
    clock = (lambda version: version) if rising else (lambda version: (version * 7) % 5)
    world = World(spaces=(BLUE, GREEN), batch=batch)
    sent = [sent_of(event, clock) for event in events]
    sent += again(random.sample(sent, len(sent) // 2))
    sent += [message(b"a", b"poison") for _ in range(random.randrange(3))]
    random.shuffle(sent)
    verdicts = Counter()
    for start in range(0, len(sent), cut):
        world.now += 1_000
        verdicts.update(world.verdicts(sent[start : start + cut]))
    assert sum(verdicts.values()) == len(sent)
    check(world, events, clock if rising else None)
    state = [world.record(item, space) for item in ITEMS for space in (BLUE, GREEN)] + [world.features(i) for i in ITEMS]
    encoded, offline = world.encoded(), len(world.offline)
    world.now += 60_000_000
    results = world.feed(again(sent))
    replay = Counter(r.verdict.value for r in results)
    assert [world.record(item, space) for item in ITEMS for space in (BLUE, GREEN)] + [world.features(i) for i in ITEMS] == state
    assert (replay["applied"], len(world.offline)) == (0, offline)
    refused = sum(r.reason == "encoder_crashed" for r in results)
    assert world.encoded() == [count + refused for count in encoded]


@settings(max_examples=30, deadline=None)
@given(drawn, st.integers(1, 3))
def test_offline_rows_of_an_item_rise_and_end_at_its_record(events, batch):
    world = World(batch=batch)
    world.feed([sent_of(event, lambda version: version) for event in events])
    for item in ITEMS:
        rows = [r for view, t in world.offline if view.space == BLUE for r in t.to_pylist() if r["item_id"] == item]
        orders = [(r["source_version"], r["event_timestamp"], r["encoded_at"]) for r in rows]
        assert orders == sorted(orders)
        assert not rows or rows[-1] == world.record(item)


@settings(max_examples=30, deadline=None)
@given(drawn, st.integers(1, 3), st.integers(0, 6))
def test_killed_between_two_effects_and_replayed_the_state_is_the_same(events, batch, applied):
    world = World(spaces=(BLUE, GREEN), batch=batch)
    sent = [sent_of(event, lambda version: version) for event in events]
    for number, effects in enumerate(world.handler.handle(sent)):
        for view, table in effects.rows:
            world.store.write_rows(view, table)
            if number >= applied:
                break
        if number >= applied:
            break
    world.feed(again(sent))
    check(world, events)
