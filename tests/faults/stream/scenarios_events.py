"""Faults of the events themselves: hostile, oversized, repeated, reordered, deleted, with clocks that lie."""

from __future__ import annotations

import json
from dataclasses import replace

from moontide.event_write import item_event_json
from moontide.events import Content, ItemEvent
from tests.faults.stream.poison import fuzz
from tests.faults.stream.scenarios import scenario
from tests.faults.stream.workload import ITEMS, STEP_US

_DAY_US = 86_400_000_000


@scenario("-")
def no_fault(rig):
    """Nothing goes wrong: the figures of all other scenarios are read against these."""
    rig.start(encoder="process")
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(3_500)))
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("9", short=0.3)
def hostile_payloads(rig):
    """Random bytes, cut JSON, NaN, depth 100,000, lone surrogates, repeated keys and headers, hostile ids: all dead letters."""
    good = rig.maker.creates() + rig.maker.mixed(rig.count(1_500))
    bad = [
        rig.maker.raw(value, key=key, headers=headers)
        for _ in range(2)
        for key, value, headers in fuzz(rig.maker.rng, "item0")
        if not (key is None and value is None) and all(text is not None for _, text in headers)
    ]
    step = max(1, len(good) // len(bad))
    for n, record in enumerate(bad):
        good.insert(n * (step + 1), record)
    rig.start()
    rig.produce(good)
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("10")
def oversized(rig):
    """Records above the limits of events and of one fetch, and long texts: dead letters without a standstill."""
    rig.base["stream_event_bytes"] = 1 << 20
    records = rig.maker.creates() + rig.maker.mixed(rig.count(1_200))
    for size in (1_100_000, 3_000_000, 8_000_000):
        filler = json.dumps({"schema_version": 1, "event_id": "big", "padding": "x" * size}).encode()
        records.insert(rig.maker.rng.randrange(len(records)), rig.maker.raw(filler, key=b"item1"))
    long = {"schema_version": 1, "event_id": "long", "op": "update", "item_id": "item2", "source_version": 1}
    long |= {"event_timestamp": "2026-01-01T00:00:00Z", "content": {"title": "x" * 1_000_001}}
    records.insert(200, rig.maker.raw(json.dumps(long).encode()))
    records.append(rig.maker.update("item3", content=Content("fine", description="y" * 900_000)))
    rig.start()
    rig.produce(records)
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("13", short=0.25)
def duplicates_and_whole_replay(rig):
    """Each event once to five times, at once and far later; then a group that reads everything again from the start."""
    once = rig.maker.creates() + rig.maker.mixed(rig.count(900))
    many = []
    for record in once:
        many.append(record)
        many += [rig.maker.again(record) for _ in range(rig.maker.rng.randrange(3))]
    many += [rig.maker.again(record) for record in rig.maker.rng.sample(once, len(once) // 2)]
    consumer = rig.start()
    rig.produce(many)
    rig.quiesce()
    rig.new_group(consumer)
    rig.start()
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("14", short=0.3)
def out_of_order(rig):
    """All events in random order, over partitions of their own choice, and keys that move when partitions are added."""
    records = rig.maker.creates() + rig.maker.mixed(rig.count(1_200))
    rig.maker.rng.shuffle(records)
    first = [replace(r, partition=rig.maker.rng.randrange(4)) if r.row.topic == ITEMS else r for r in records]
    consumer = rig.start()
    rig.produce(first)
    rig.quiesce()
    more = rig.maker.mixed(rig.count(1_200))
    rig.maker.rng.shuffle(more)
    rig.produce(more[: len(more) // 2])
    consumer.terminate()
    rig.topics.add_partitions(ITEMS, 7)
    rig.sender.close()
    rig.produce(more[len(more) // 2 :])
    rig.start()
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("15", short=0.5)
def deletes(rig):
    """Late updates and replays after a delete, deletes of the unknown, tombstones without an op and ops without a tombstone."""
    m, scripts = rig.maker, []
    for n in range(rig.count(300)):
        item = f"gone{n}"
        v = 10 * (1 + n * 20)
        at = [m.base_us + (v // 10 + k) * STEP_US for k in range(10)]
        create, update, delete, late = (
            m.update(item, version=v, event_us=at[0]),
            m.update(item, version=v + 10, event_us=at[1]),
            m.delete(item, version=v + 30, event_us=at[3]),
            m.update(item, version=v + 20, event_us=at[2]),
        )
        again = m.update(item, version=v + 40, event_us=at[4])
        # Without a version it deletes by its time alone, so it comes in order and last.
        lone = m.tombstone(item, None, at[9])
        scripts.append(
            [
                [create, delete, late],
                [create, update, delete, m.again(update), m.again(create)],
                [delete],
                [delete, late],
                [create, delete, again],
                [create, delete, m.again(delete), again, m.again(late), m.again(delete)],
                [create, update, lone],
                [lone],
                [create, lone, m.again(create), m.again(lone)],
            ][n % 9]
        )
    rig.start()
    rig.produce(interleaved(scripts, m.rng))
    m.forget()
    rig.produce(m.creates() + m.mixed(rig.count(600)))
    rig.quiesce()
    return rig.finish(most_duplicates=0)


def interleaved(scripts, rng):
    """One list in which each script keeps its order."""
    order = [n for n, script in enumerate(scripts) for _ in script]
    rng.shuffle(order)
    left = [iter(script) for script in scripts]
    return [next(left[n]) for n in order]


@scenario("16")
def clocks_that_lie(rig):
    """Event times a day off, all equal, or in 2100, and a consumer whose clock jumps: versions decide, not clocks."""
    m = rig.maker
    rig.produce(m.creates())
    consumer = rig.start()
    for offset_us in (0, _DAY_US, 0, -1_200_000_000):
        consumer.wish("clock", offset_us=offset_us)
        records = []
        for _ in range(rig.count(500)):
            m.version += 1
            shift = m.rng.choice([0, -_DAY_US, -m.version * STEP_US, m.rng.randrange(-_DAY_US, 0)])
            made = m.update if m.rng.random() < 0.9 else m.delete
            records.append(made(event_us=max(0, m.base_us + m.version * STEP_US + shift)))
        records += [future(m) for _ in range(5)]
        rig.produce(records)
        rig.quiesce()
    return rig.finish(most_duplicates=0)


def future(maker):
    """Poison: an item of the year 2100."""
    event = ItemEvent("future", maker.rng.choice(maker.items), 10**9, 4_102_444_800_000_000, False, Content("2100"))
    return maker.raw(item_event_json(event), key=event.item_id.encode(), event_id="future")
