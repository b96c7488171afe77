"""The thread that turns messages into writes: handlers decide, the online store arbitrates, the settler does the rest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from moontide import names
from moontide.errors import Transient
from moontide.stores.base import OnlineStore
from moontide.stores.kv import Clock
from streaming.behaviours import BehaviourHandler
from streaming.items import ItemHandler
from streaming.message import Effects, Message, Point, Result, Trace, Verdict
from streaming.metrics import Metrics
from streaming.online_writes import write_online
from streaming.patience import GivenUp, Patience
from streaming.progress import Offsets, Progress
from streaming.settler import Settler
from streaming.state import State
from streaming.tiers import CandidateTiers

THREAD: Final = "worker"
_IDLE: Final = 0.5
#: Users whose tiers are computed at once: what item events wait for at most.
_USERS: Final = 50
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Batch:
    """Messages of one poll, in offset order per partition.

    Attributes:
        messages: what was polled.
        positions: where their partitions stand once all of it is processed.
        abandoned: set when the rest is another consumer's work.
        finished: set when nothing of it is in work any more.
    """

    messages: Sequence[Message]
    positions: Offsets
    abandoned: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Handling:
    """What the worker works with; `tiers` None computes none ahead."""

    online: OnlineStore
    items: ItemHandler
    behaviours: BehaviourHandler
    tiers: CandidateTiers | None
    clock: Clock
    trace: Trace


class Worker:
    """Processes one batch at a time; one more may wait.

    Args:
        handling: store, handlers, clock, trace.
        settler: gets what was written.
        progress: is told what was wholly processed.
        state: shared with the other threads.
        metrics: counts and times.
    """

    def __init__(self, handling: Handling, settler: Settler, progress: Progress, state: State, metrics: Metrics) -> None:
        self._handling = handling
        self._settler = settler
        self._progress = progress
        self._state = state
        self._metrics = metrics
        self._patience = Patience(state, metrics, THREAD)
        self._wakes = threading.Condition()
        self._current: Batch | None = None
        self._next: Batch | None = None
        self._ends = False
        #: Users whose sequence has changed since their tiers were computed, with Kafka's times of why.
        self._acted: dict[str, list[int]] = {}
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def has_room(self, wait: float = 0.0) -> bool:
        """Whether `submit` may be called; waits up to `wait` seconds for it."""
        with self._wakes:
            return self._wakes.wait_for(lambda: self._next is None or self._ends, wait)

    def submit(self, batch: Batch) -> None:
        """Hand over a batch; only while there is room."""
        with self._wakes:
            if self._next is not None:
                raise RuntimeError("worker: expected room, got a second waiting batch")
            self._next = batch
            self._wakes.notify_all()

    def pending(self) -> list[Batch]:
        """Batches that are not finished, in order."""
        with self._wakes:
            return [batch for batch in (self._current, self._next) if batch is not None]

    def withdraw(self) -> Batch | None:
        """Take back the batch that was not begun."""
        with self._wakes:
            batch, self._next = self._next, None
            self._wakes.notify_all()
        if batch is not None:
            batch.finished.set()
        return batch

    def close(self, timeout: float) -> None:
        """End the thread after the effects in work."""
        with self._wakes:
            self._ends = True
            self._wakes.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                self._process(batch)
                with self._wakes:
                    self._current = None
                    self._wakes.notify_all()
                batch.finished.set()
        except BaseException as error:  # the edge of the thread: the loop raises it
            self._state.failed = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._state.rest(THREAD)
            for batch in self.pending():
                batch.finished.set()

    def _take(self) -> Batch | None:
        with self._wakes:
            while self._next is None and not self._ends:
                self._state.beat(THREAD)
                self._wakes.wait(_IDLE)
            if self._ends:
                return None
            self._current, self._next = self._next, None
            self._wakes.notify_all()
            return self._current

    def _process(self, batch: Batch) -> None:
        self._handling.trace(Point.POLLED)
        self._metrics.batch(len(batch.messages))
        items = [m for m in batch.messages if m.topic == names.TOPIC_ITEM_EVENTS]
        behaviours = [m for m in batch.messages if m.topic == names.TOPIC_BEHAVIOUR_EVENTS]
        try:
            if items:
                with self._metrics.timed("items"):
                    self._handle(batch, items, self._items)
            if behaviours and not batch.abandoned.is_set():
                with self._metrics.timed("behaviours"):
                    self._handle(batch, behaviours, self._behaviours)
                self._compute_tiers(batch)
        except GivenUp as error:
            _log.warning("batch left to a replay: %s", error)
            return
        if not batch.abandoned.is_set():
            self._progress.done(batch.positions)

    def _handle(self, batch: Batch, messages: list[Message], handle: Callable[[list[Message]], Iterable[Effects]]) -> None:
        """Apply all effects of `messages`; what a Transient interrupts is handled again, settled messages apart."""
        left = messages
        while left:
            settled: set[tuple[int, int]] = set()
            try:
                for effects in handle(left):
                    self._apply(batch, effects)
                    settled.update((r.message.partition, r.message.offset) for r in effects.results)
                    if batch.abandoned.is_set():
                        return
            except Transient as error:
                left = [m for m in left if (m.partition, m.offset) not in settled]
                self._patience.failed("handling", error, given_up=batch.abandoned.is_set)
                continue
            self._patience.came_through("handling")
            return

    def _items(self, messages: list[Message]) -> Iterable[Effects]:
        return self._handling.items.handle(messages, trace=self._handling.trace)

    def _behaviours(self, messages: list[Message]) -> Iterable[Effects]:
        effects = self._handling.behaviours.handle(messages, trace=self._handling.trace)
        for result in effects.results:
            # A replay finds its behaviours merged, and cannot know whether the tiers were written before the crash.
            if result.entity_id is not None and result.verdict in (Verdict.APPLIED, Verdict.UNCHANGED):
                times = self._acted.setdefault(result.entity_id, [])
                if result.verdict is Verdict.APPLIED:
                    times.append(result.message.timestamp_ms)
        yield effects

    def _compute_tiers(self, batch: Batch) -> None:
        """Bring the tiers of the users who acted up to date, a slice of them at a time."""
        acted, self._acted = self._acted, {}
        tiers, users = self._handling.tiers, list(acted)
        if tiers is None:
            return
        for start in range(0, len(users), _USERS):
            some = users[start : start + _USERS]
            with self._metrics.timed("tiers"):
                effects = self._patience.run("tiers", partial(tiers.recompute, some), given_up=batch.abandoned.is_set)
            self._apply(batch, effects)
            now = self._handling.clock()
            self._metrics.tiers([now / 1e6 - at / 1e3 for user in some for at in acted[user] if at >= 0])
            self._metrics.left_out(tiers.index_failures, tiers.neighbours_left_out)

    def _apply(self, batch: Batch, effects: Effects) -> None:
        """Write online what is to be read at once, and hand everything to the settler."""
        self._state.beat(THREAD)
        online = self._handling.online
        if effects.rows or effects.online_only:
            with self._metrics.timed("online"):
                self._patience.run("online", lambda: write_online(online, effects), given_up=batch.abandoned.is_set)
            self._handling.trace(Point.ONLINE_WRITTEN)
        now = self._handling.clock()
        for topic, ages in _ages(now, effects).items():
            self._metrics.readable(ages, topic)
        for result in effects.results:
            _tell(result)
        self._settler.add(effects)


def _tell(result: Result) -> None:
    dead = result.verdict is Verdict.DEAD
    level = logging.WARNING if dead else logging.DEBUG
    if _log.isEnabledFor(level):
        fields = {"position": result.message.position, "entity": result.entity_id, "verdict": result.verdict.value}
        _log.log(level, "dead letter: %s" if dead else "settled%s", result.detail, extra=fields | {"reason": result.reason})


def _ages(now: int, effects: Effects) -> Mapping[str, list[float]]:
    """Seconds since Kafka's timestamp of the messages whose effect can be read now, by topic."""
    found: dict[str, list[float]] = {}
    for result in effects.results:
        if result.verdict is Verdict.APPLIED and result.message.timestamp_ms >= 0:
            found.setdefault(result.message.topic, []).append(_age(now, result.message))
    return found


def _age(now: int, message: Message) -> float:
    return now / 1e6 - message.timestamp_ms / 1e3
