"""A tombstone without a version deletes an item in every space, also where the run that read it first died half-way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.item_world import BLUE, GREEN, NOW, World, again, remove, tombstone, upsert

pytestmark = pytest.mark.unit
ITEMS = ("a", "b")

#: (item, text, None for a delete or "lone" for a tombstone without version, how far its clock is off).
drawn = st.lists(
    st.tuples(st.sampled_from(ITEMS), st.sampled_from(["x", "y", None, "lone"]), st.integers(-3, 3)), max_size=8
)  # fmt: skip


def sent_of(events):
    out, versions = [], dict.fromkeys(ITEMS, 0)
    for number, (item, text, off) in enumerate(events, 1):
        at = NOW + number * 10_000
        versions[item] += 1
        if text == "lone":
            out.append(tombstone(item, at))
        elif text is None:
            out.append(remove(item, versions[item], at + off * 10_000))
        else:
            out.append(upsert(item, versions[item], at + off * 10_000, title=text))
    return out


def state(world):
    found = [world.record(item, space) for item in ITEMS for space in (BLUE, GREEN)] + [world.features(i) for i in ITEMS]
    return [r and (r["deleted"], r["source_version"], r.get("content_hash")) for r in found]


def killed(world, messages, writes):
    """Handle `messages` until `writes` tables are written; how many were."""
    done = 0
    for effects in world.handler.handle(messages):
        for view, table in effects.rows:
            if done == writes:
                return done
            world.store.write_rows(view, table)
            done += 1
    return done


def test_a_tombstone_that_reached_one_space_reaches_the_other_when_it_is_replayed():
    world = World(spaces=(BLUE, GREEN))
    world.feed([upsert("i", 3)])
    sent = [tombstone("i", NOW + 10_000)]
    assert killed(world, sent, 1) == 1
    assert world.verdicts(again(sent)) == ["applied"]
    assert all(r["deleted"] for r in (world.record("i", BLUE), world.record("i", GREEN), world.features("i")))
    assert world.verdicts(again(sent)) == ["unchanged"]


@settings(max_examples=40, deadline=None)
@given(drawn, st.integers(1, 4), st.integers(0, 12), st.integers(1, 3))
def test_killed_between_two_writes_and_replayed_the_state_is_the_same(events, cut, writes, batch):
    sent = sent_of(events)
    whole, broken = World(spaces=(BLUE, GREEN), batch=batch), World(spaces=(BLUE, GREEN), batch=batch)
    whole.now = broken.now = NOW + 1_000_000
    for start in range(0, len(sent), cut):
        part = sent[start : start + cut]
        whole.feed(part)
        if writes >= 0:
            writes -= killed(broken, part, writes) or len(part)
        broken.feed(again(part))
    assert state(broken) == state(whole)
