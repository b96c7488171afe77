"""The thread behind the worker: followers at once, and everything durable at a checkpoint, in the order that loses nothing.

A checkpoint is a barrier in the stream of effects: when it is done, all that came before it is durable everywhere, and only then
are its offsets given back to be committed. The worker goes on meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from moontide import names
from moontide.stores.kv import Clock
from moontide.views import ViewKind, ViewSpec
from streaming.checkpoint import Checkpoint
from streaming.followers import Follower
from streaming.message import Effects, Point, Result, Trace, Verdict
from streaming.metrics import Metrics
from streaming.patience import GivenUp, Patience
from streaming.progress import Offsets
from streaming.state import State

THREAD: Final = "settler"
_IDLE: Final = 0.5
_ITEMS: Final = names.TOPIC_ITEM_EVENTS
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Barrier:
    """A checkpoint that was asked for: `offsets` may be committed once `done` is set, and never before."""

    offsets: Offsets
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Settling:
    """What the settler works with."""

    followers: Mapping[str, Follower]
    checkpoint: Checkpoint
    clock: Clock
    trace: Trace


class Settler:
    """Takes effects that were written online, in order, and barriers between them.

    Args:
        settling: followers by space id, checkpoint, clock (microseconds UTC), trace.
        state: shared with the other threads.
        metrics: counts and times.
    """

    def __init__(self, settling: Settling, state: State, metrics: Metrics) -> None:
        self._settling = settling
        self._state = state
        self._metrics = metrics
        self._patience = Patience(state, metrics, THREAD)
        self._inbox: deque[Effects | Barrier] = deque()
        self._held_bytes = 0
        self._wakes = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def held_bytes(self) -> int:
        """Bytes of the messages that wait for a checkpoint: those of dead letters; of others nothing is kept."""
        return self._held_bytes

    def add(self, effects: Effects) -> None:
        """Hand over effects; they are written online already."""
        # What waits for a checkpoint may be tens of thousands of events, each with an image in it.
        effects.results = [r if r.verdict is Verdict.DEAD else replace(r, message=r.message.bare()) for r in effects.results]
        self._hold(_payload(effects.results))
        self._put(effects)

    def checkpoint(self, offsets: Offsets) -> Barrier:
        """Ask for everything handed over so far to be made durable."""
        barrier = Barrier(offsets)
        self._put(barrier)
        return barrier

    def close(self, timeout: float) -> None:
        """End the thread; what is in its inbox is left to a replay."""
        with self._wakes:
            self._ends = True
            self._wakes.notify()
        self._thread.join(timeout)

    def _hold(self, size: int) -> None:
        with self._wakes:
            self._held_bytes += size

    def _put(self, entry: Effects | Barrier) -> None:
        with self._wakes:
            self._inbox.append(entry)
            self._wakes.notify()

    def _run(self) -> None:
        try:
            while not self._ends:
                self._state.beat(THREAD)
                effects, barrier = self._take()
                if effects:
                    self._follow(effects)
                if barrier is not None:
                    self._make_durable()
                    barrier.done.set()
                    self._sweep()
                elif not effects:
                    self._tidy()
        except GivenUp as error:
            _log.warning("left to a replay: %s", error)
        except BaseException as error:  # the edge of the thread: the loop raises it
            self._state.failed = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._state.rest(THREAD)

    def _take(self) -> tuple[list[Effects], Barrier | None]:
        """All effects up to the next barrier, and that barrier, once there is anything."""
        with self._wakes:
            if not self._inbox and not self._ends:
                self._wakes.wait(_IDLE)
            effects: list[Effects] = []
            while self._inbox:
                entry = self._inbox.popleft()
                if isinstance(entry, Barrier):
                    return effects, entry
                effects.append(entry)
        return effects, None

    def _follow(self, effects: Sequence[Effects]) -> None:
        checkpoint = self._settling.checkpoint
        for some in effects:
            some.touched = [(view, self._unknown(view, ids)) for view, ids in some.touched]
            checkpoint.add(some)
        with self._metrics.timed("follow"):
            for space, ids in _items(effects, self._settling.followers).items():
                follower = self._settling.followers[space]
                self._patience.run("index", lambda f=follower, i=list(ids): f.follow(i))  # type: ignore[misc]
        now = self._settling.clock()
        ages = [
            now / 1e6 - r.message.timestamp_ms / 1e3
            for some in effects
            for r in some.results
            if r.verdict is Verdict.APPLIED and r.message.timestamp_ms >= 0 and _is_item(some)
        ]
        self._metrics.searchable(ages)
        self._metrics.redriven(sum(len(ids) for some in effects for view, ids in some.touched if view.kind is ViewKind.EMBEDDING))

    def _unknown(self, view: ViewSpec, ids: list[str]) -> list[str]:
        """`ids` without those whose embedding this process has made durable as it stands; after a restart each is driven once."""
        if view.space is None:
            return ids
        follower = self._settling.followers[view.space.id]
        known = self._patience.run("online", lambda: follower.known(ids))
        return [item for item in ids if item not in known]

    def _make_durable(self) -> None:
        checkpoint, trace, run = self._settling.checkpoint, self._settling.trace, self._patience.run
        with self._metrics.timed("offline"):
            run("offline", lambda: checkpoint.write_offline(trace))
        with self._metrics.timed("settle"):
            for follower in self._settling.followers.values():
                run("index", partial(follower.settle, checkpoint.versions(follower.space.id)))
        with self._metrics.timed("dead_letters"):
            run("dead_letters", checkpoint.await_dead_letters)
        trace(Point.SENDS_AWAITED)
        results = checkpoint.results
        with self._metrics.timed("audit"):
            run("audit", lambda: checkpoint.write_audit(trace))
        self._metrics.settled(results)
        self._hold(-_payload(results))

    def _sweep(self) -> None:
        with self._metrics.timed("sweep"):
            for follower in self._settling.followers.values():
                self._patience.run("index", follower.sweep)

    def _tidy(self) -> None:
        """While nothing comes, bring to an end what sweeps began: without an event there is no checkpoint that would."""
        if self._settling.checkpoint.results:
            return
        self._sweep()
        for follower in self._settling.followers.values():
            if follower.unsettled:
                with self._metrics.timed("settle"):
                    self._patience.run("index", partial(follower.settle, {}))


def _items(effects: Sequence[Effects], spaces: Iterable[str]) -> dict[str, dict[str, None]]:
    """Items whose embedding was written or touched, by space id.

    Those of stale events too: whoever had one before and died may have put the older record on top in the change stream.
    """
    stale = [r.entity_id for some in effects for r in some.results if r.verdict is Verdict.STALE and r.message.topic == _ITEMS]
    found: dict[str, dict[str, None]] = {space: {item: None for item in stale if item is not None} for space in spaces}
    for some in effects:
        for view, rows in some.rows:
            if view.kind is ViewKind.EMBEDDING and view.space is not None:
                found.setdefault(view.space.id, {}).update(dict.fromkeys(rows["item_id"].to_pylist()))
        for view, ids in some.touched:
            if view.kind is ViewKind.EMBEDDING and view.space is not None:
                found.setdefault(view.space.id, {}).update(dict.fromkeys(ids))
    return {space: ids for space, ids in found.items() if ids}


def _payload(results: Sequence[Result]) -> int:
    return sum(r.message.payload_bytes for r in results)


def _is_item(effects: Effects) -> bool:
    return any(view.kind is ViewKind.EMBEDDING for view, _ in effects.rows)
