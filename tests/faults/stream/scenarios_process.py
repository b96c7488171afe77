"""Faults of the consumer's process: killed, stopped, told to end."""

from __future__ import annotations

import signal
import time

from streaming.message import Point
from tests.faults.stream.figures import Broken
from tests.faults.stream.scenarios import scenario

#: Killed here, in the order a record passes them; the handing over of partitions has a scenario of its own.
KILL_POINTS = [point for point in Point if point is not Point.REVOKING]
SESSION_MS = 3_000


@scenario("4", short=0.3)
def kill_at_points(rig):
    """SIGKILL at each named point of the flow, one after the other; each time another process goes on."""
    rig.base["stream_session_ms"] = SESSION_MS
    points = list(KILL_POINTS) if rig.size >= 1 else [Point.ENCODED, Point.INDEX_WRITTEN, Point.OFFLINE_WRITTEN, Point.AUDITED]
    rig.maker.rng.shuffle(points)
    rig.produce(rig.maker.creates())
    for point in points:
        rig.produce(rig.maker.mixed(rig.count(180), poison=0.03))
        n = rig.maker.rng.randrange(1, 3) if point in _OFTEN else 1
        dying = rig.start(wait=False, point={"point": point, "n": n, "action": "kill"})
        rig.expect_death(dying)
    rig.produce(rig.maker.mixed(rig.count(100)))
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()


_OFTEN = {Point.POLLED, Point.PARSED, Point.ENCODED, Point.ONLINE_WRITTEN, Point.INDEX_WRITTEN, Point.CHANGES_SENT}


@scenario("4")
def kill_storm(rig):
    """SIGKILL from outside at any moment under load, at intervals of three session timeouts."""
    rig.base["stream_session_ms"] = SESSION_MS
    sending = rig.producing(rig.maker.creates() + rig.maker.mixed(rig.count(3_500)), rate=150)
    for _ in range(3):
        victim = rig.start()
        time.sleep(3 + rig.maker.rng.random() * 5)
        rig.kill(victim)
    sending.join()
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("26", short=0.4)
def kill_between_online_and_index(rig):
    """Killed after the online write was won and before the index write: only the replay can bring the index up to date."""
    rig.base["stream_session_ms"] = SESSION_MS
    rig.produce(rig.maker.creates())
    items = rig.maker.items
    rounds = 4 if rig.size >= 1 else 2
    for turn in range(rounds):
        # Each round has items of its own, which no later event repairs.
        rig.maker.items = items[turn::rounds]
        rig.produce(rig.maker.mixed(rig.count(250)))
        n = rig.maker.rng.randrange(1, 4)
        rig.expect_death(rig.start(wait=False, point={"point": Point.ONLINE_WRITTEN, "n": n, "action": "kill"}))
    rig.maker.items = items
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("5", short=0.3)
def sigterm_mid_batch(rig):
    """SIGTERM in the middle of a batch: it is finished, committed and left within 30 s, and nothing is done twice."""
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(2_000)))
    for _ in range(2):
        consumer = rig.start(wishes={"online": {"slow": 0.05}})
        before = rig.lines()
        rig.until(lambda before=before: rig.lines() > before, 30, "the first verdicts")
        code, took = consumer.terminate()
        rig.figures.recovery.append(took)
        if code or took > 30:
            raise Broken(f"SIGTERM: expected exit code 0 within 30 s, got {code} after {took:.1f} s; {consumer.log[-2000:]}")
    rig.produce(rig.maker.mixed(rig.count(500)))
    rig.start()
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("4")
def internal_error(rig):
    """A thread fails with an error nobody expected, at several points: the process ends, nothing is committed too early."""
    rig.base["stream_session_ms"] = SESSION_MS
    rig.produce(rig.maker.creates())
    for point in (Point.PLANNED, Point.INDEX_WRITTEN, Point.SENDS_AWAITED, Point.COMMITTED):
        rig.produce(rig.maker.mixed(rig.count(200)))
        failing = rig.start(wait=False, point={"point": point, "n": 1, "action": "raise"})
        rig.until(lambda c=failing: not c.running, 60, f"the consumer to end at {point}")
        rig.figures.interruptions += 1
        if failing.process.returncode in (0, None):
            raise Broken(f"an internal error at {point} ended with exit code {failing.process.returncode}")
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("18")
def frozen_beyond_the_session(rig):
    """SIGSTOP for longer than the session: the group goes on, commits of the old generation fail, it joins again."""
    rig.base["stream_session_ms"] = 2_000
    sending = rig.producing(rig.maker.creates() + rig.maker.mixed(rig.count(2_000)), rate=300)
    consumer = rig.start()
    for _ in range(2):
        before = rig.lines()
        rig.until(lambda before=before: rig.lines() > before, 30, "verdicts")
        consumer.signal(signal.SIGSTOP)
        time.sleep(3.5)
        consumer.signal(signal.SIGCONT)
        rig.figures.interruptions += 1
        time.sleep(1)
    sending.join()
    rig.quiesce(recovery=True)
    return rig.finish()
