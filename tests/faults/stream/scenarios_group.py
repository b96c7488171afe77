"""Faults of the group: members that come, go, die and come back as zombies; the index is served to all of them."""

from __future__ import annotations

import signal
import time

from streaming.message import Point
from tests.faults.stream.figures import Broken
from tests.faults.stream.scenarios import scenario

SESSION_MS = 3_000


@scenario("17")
def members_come_and_go(rig):
    """Two and three consumers share the work; they join, leave in order and are killed under load."""
    rig.milvus()
    rig.base["stream_session_ms"] = SESSION_MS
    sending = rig.producing(rig.maker.creates() + rig.maker.mixed(rig.count(3_500)), rate=150)
    first = rig.start()
    second = rig.start()
    time.sleep(2)
    third = rig.start()
    time.sleep(3)
    first.terminate()
    time.sleep(1)
    rig.kill(second)
    time.sleep(1)
    rig.start()
    time.sleep(3 * SESSION_MS / 1e3 if rig.size >= 1 else 1)
    rig.kill(third)
    sending.join()
    rig.figures.interruptions += 3
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("17", short=0.4)
def members_join_a_member_that_is_behind(rig):
    """Members join and leave one that has batches waiting and a slow store: what it drops is read again, by whoever has it then."""
    rig.milvus()
    rig.base |= {"stream_session_ms": SESSION_MS, "stream_poll_interval_ms": 6_000, "stream_poll_records": 60}
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(1_800)))
    slow = {"online": {"slow": 0.15}}
    first = rig.start(wishes=slow)
    for _ in range(3 if rig.size >= 1 else 1):
        time.sleep(1.5)
        other = rig.start(wishes=slow)
        rig.figures.interruptions += 2
        time.sleep(1.5)
        other.terminate()
    first.wish("online")
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("17")
def killed_while_handing_over(rig):
    """A member is killed in the middle of giving its partitions up."""
    rig.milvus()
    rig.base["stream_session_ms"] = SESSION_MS
    rig.produce(rig.maker.creates())
    sending = rig.producing(rig.maker.mixed(rig.count(1_500)), rate=200)
    for _ in range(2):
        dying = rig.start(point={"point": Point.REVOKING, "n": 1, "action": "kill"})
        time.sleep(1)
        joining = rig.start(wait=False)
        rig.expect_death(dying)
        rig.until(lambda c=joining: "assigned" in c.log, 30, "the next member to take over")
        time.sleep(1)
        joining.terminate()
    sending.join()
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("17")
def zombie(rig):
    """A member is stopped for longer than its session while another takes over; then it goes on where it was."""
    rig.milvus()
    rig.base["stream_session_ms"] = SESSION_MS
    rig.produce(rig.maker.creates())
    sending = rig.producing(rig.maker.mixed(rig.count(1_800)), rate=250)
    first = rig.start()
    second = rig.start()
    for turn in range(2 if rig.size >= 1 else 1):
        victim = (first, second)[turn % 2]
        time.sleep(1.5)
        victim.signal(signal.SIGSTOP)
        time.sleep(SESSION_MS / 1e3 + 2.5)
        victim.signal(signal.SIGCONT)
        rig.figures.interruptions += 1
    sending.join()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("27", short=0.3)
def zombie_between_online_and_index(rig):
    """Stopped after its online write was won, overtaken by another member, and resumed before its index write."""
    rig.milvus()
    rig.base["stream_session_ms"] = SESSION_MS
    rig.produce(rig.maker.creates())
    for turn in range(2 if rig.size >= 1 else 1):
        rig.produce(rig.maker.mixed(rig.count(250)))
        n = rig.maker.rng.randrange(1, 3)
        sleeper = rig.start(wait=False, point={"point": Point.ONLINE_WRITTEN, "n": n, "action": "stop"})
        rig.until(lambda c=sleeper: c.stopped, 40, "the consumer to stop itself")
        other = rig.start(wait=False)
        rig.until(lambda c=other: "assigned" in c.log, 40, "another member to take over")
        before = rig.lines()
        rig.produce(rig.maker.mixed(rig.count(250)))
        rig.until(lambda before=before: rig.lines() > before, 40, "the other member to go on")
        rig.quiesce()
        sleeper.signal(signal.SIGCONT)
        rig.figures.interruptions += 1
        time.sleep(2.5)
        if not sleeper.running:
            raise Broken(f"the zombie ended with {sleeper.process.returncode}; {sleeper.log[-1500:]}")
        rig.produce(rig.maker.mixed(rig.count(100)))
        rig.quiesce(recovery=True)
        if turn == 0:
            other.terminate()
            sleeper.terminate()
    return rig.finish()
