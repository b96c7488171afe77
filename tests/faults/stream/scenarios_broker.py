"""Faults of the broker and of the network to it."""

from __future__ import annotations

import time

from moontide import names
from tests.faults.stream.figures import Broken
from tests.faults.stream.scenarios import scenario
from tests.faults.stream.workload import ITEMS
from tests.tcp_proxy import Fault, TcpProxy


@scenario("1", own_broker=True, short=0.4)
def broker_killed(rig):
    """The broker is killed with SIGKILL under load and started again on the same data."""
    rig.start()
    sending = rig.producing(rig.maker.creates() + rig.maker.mixed(rig.count(3_000)), rate=400)
    for _ in range(2 if rig.size >= 1 else 1):
        time.sleep(1.5)
        rig.broker.kill()
        rig.figures.kills_of_others += 1
        time.sleep(0.5)
        rig.broker.start()
        rig.figures.interruptions += 1
    sending.join()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("2", own_broker=True)
def broker_frozen(rig):
    """The broker is stopped with SIGSTOP for 5 and 15 s: connections stay open, nothing answers."""
    rig.start()
    sending = rig.producing(rig.maker.creates() + rig.maker.mixed(rig.count(2_500)), rate=400)
    for seconds in (5, 15):
        time.sleep(1)
        rig.broker.pause()
        time.sleep(seconds)
        rig.broker.resume()
        rig.figures.interruptions += 1
    sending.join()
    rig.quiesce(recovery=True)
    return rig.finish()


def proxied(broker):
    """A listener of the broker that clients reach through a proxy."""
    proxy = TcpProxy()
    proxy.target_port = broker.listen("PROXIED", advertised_port=proxy.port)
    return proxy


@scenario("3", own_broker=True, prepare=proxied)
def network_faults(rig):
    """Delay, single bytes, answers cut in the middle, half-open and refused connections between consumer and broker."""
    proxy = rig.prepared
    proxy.delay = 0.02
    rig.base["kafka_servers"] = f"127.0.0.1:{proxy.port}"
    rig.start()
    faults = [Fault.DELAY, Fault.FRAGMENTS, Fault.CUT, Fault.SWALLOW, Fault.REFUSE]
    rig.maker.rng.shuffle(faults)
    sending = rig.producing(rig.maker.creates() + rig.maker.mixed(rig.count(2_500)), rate=150)
    for fault in faults:
        time.sleep(1)
        proxy.fault = fault
        time.sleep(2.5)
        proxy.fault = Fault.NONE
        proxy.reset()
        rig.figures.interruptions += 1
    sending.join()
    rig.quiesce(recovery=True)
    proxy.close()
    return rig.finish()


@scenario("18")
def records_deleted_before_they_were_read(rig):
    """Retention deletes what the group has not read: it goes on at the oldest record there is, and says so."""
    first = rig.maker.creates()
    rig.produce(first)
    consumer = rig.start()
    rig.quiesce()
    rig.kill(consumer)
    deleted = [rig.maker.update(item) for item in rig.maker.items]
    rig.produce(deleted)
    rig.starts = {(ITEMS, p): end for p, end in rig.broker.end_offsets(ITEMS).items()}
    rig.sampler.starts.update(rig.starts)
    rig.broker.delete_records(ITEMS, {p: end for (_, p), end in rig.starts.items()})
    # What is left decides every item: the deleted updates are the ones nobody can know.
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(1_500)))
    again = rig.start()
    rig.quiesce(recovery=True)
    if "are gone" not in again.log:
        raise Broken(f"expected a word about the records that are gone, got none; {again.log[-800:]}")
    return rig.finish()


@scenario("25")
def dead_letter_topic_gone(rig):
    """The dead-letter topic is missing: nothing is committed past the poison, and all goes on once the topic is back."""
    rig.topics.delete([names.TOPIC_DEAD_LETTERS])
    poison = [rig.maker.poison() for _ in range(5)]
    rig.produce(rig.maker.creates() + poison + rig.maker.mixed(rig.count(1_000)))
    first = min_offsets(rig)
    consumer = rig.start()
    rig.until(lambda: not consumer.running or "dead" in consumer.get("readyz")[1], 90, "/readyz to name the dead-letter topic")
    committed_before_poison(rig, first)
    rig.topics.make(names.TOPIC_DEAD_LETTERS)
    rig.figures.interruptions += 1
    rig.quiesce(recovery=True, restart=True)
    return rig.finish()


@scenario("25")
def dead_letter_topic_takes_nothing(rig):
    """The dead-letter topic refuses every record for its size: the consumer stops, and goes on after the topic was mended."""
    rig.topics.make(names.TOPIC_DEAD_LETTERS, {"max.message.bytes": "100"})
    rig.produce(rig.maker.creates() + [rig.maker.poison() for _ in range(5)] + rig.maker.mixed(rig.count(1_000)))
    first = min_offsets(rig)
    consumer = rig.start()
    rig.until(lambda: not consumer.running or "dead" in consumer.get("readyz")[1], 90, "the consumer to stop or to be not ready")
    committed_before_poison(rig, first)
    rig.topics.make(names.TOPIC_DEAD_LETTERS, {"max.message.bytes": str(9 << 20)})
    rig.quiesce(recovery=True, restart=True)
    return rig.finish()


@scenario("25")
def dead_letters_larger_than_their_topic(rig):
    """Poison that is larger than the dead-letter topic takes: its digest stands for it, and nothing else is disturbed."""
    rig.topics.make(names.TOPIC_DEAD_LETTERS, {"max.message.bytes": "60000"})
    records = rig.maker.creates() + rig.maker.mixed(rig.count(1_200))
    for _ in range(4):
        large = rig.maker.raw(b"{" + rig.maker.rng.randbytes(200_000), key=b"item1")
        records.insert(rig.maker.rng.randrange(len(records)), large)
    rig.start()
    rig.produce(records)
    rig.quiesce(restart=True)
    return rig.finish()


def committed_before_poison(rig, first):
    """Nothing is committed past poison that has no dead letter."""
    for place, offset in rig.committed().items():
        if place in first and offset > first[place]:
            raise Broken(f"{place}: committed {offset}, past the poison at {first[place]} that has no dead letter")


def min_offsets(rig):
    """(topic, partition) -> offset of the first poison in it."""
    first = {}
    for s in rig.ledger.all():
        if s.kind == "poison" and s.place:
            first[s.topic, s.part] = min(first.get((s.topic, s.part), s.off), s.off)
    return first
