"""The main thread: polls, hands over, asks for checkpoints, commits what is durable, and gives partitions up in order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from moontide.settings import Settings
from moontide.stores.kv import Clock
from streaming.crew import Crew
from streaming.message import Message, Point, Trace
from streaming.positions import COMMIT_SECONDS, Positions
from streaming.progress import Offsets, Partition
from streaming.rebalance import Partitions, RebalanceListener
from streaming.settler import Barrier
from streaming.worker import Batch

THREAD: Final = "loop"
_POLL_MS: Final = 100
_ROOM_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 0.5
_WAIT_SECONDS: Final = 0.05
_TOPICS: Final = "topics"
_TOPICS_SECONDS: Final = 5.0
#: The share of max.poll.interval that giving partitions up may take.
_REVOKE_SHARE: Final = 0.2
#: What comes after it, up to the end of the process, is bounded too and takes at most as long again.
_LEAVE_SECONDS: Final = 15.0
_LAST_COMMIT_SECONDS: Final = 2.0
#: Dead letters that are not known to have arrived: no more is read beyond so many bytes of them.
_HELD_BYTES: Final = 256 << 20
_log = logging.getLogger(__name__)


class Loop:
    """Runs until told to stop, or until a thread fails.

    Args:
        consumer: a client that commits nothing by itself; closed by `run`.
        topics: what to subscribe to.
        crew: worker, settler, progress, state, metrics.
        settings: intervals and limits.
        ticks: clock in microseconds UTC and the trace of named points.
    """

    def __init__(
        self, consumer: KafkaConsumer, topics: Sequence[str], crew: Crew, settings: Settings, ticks: tuple[Clock, Trace]
    ) -> None:
        self._consumer = consumer
        self._topics = list(topics)
        self._crew = crew
        self._settings = settings
        self._clock, self._trace = ticks
        self._barrier: Barrier | None = None
        self._barrier_since = self._checkpointed = crew.state.monotonic()
        self._positions = Positions(consumer, crew, self._clock)
        self._events = 0
        #: Records of partitions that were assigned while all others were paused.
        self._held: Batch | None = None
        self._leave_by: float | None = None
        self._learned = 0.0

    def run(self) -> None:
        """Consume; returns after a clean stop.

        Raises:
            MoontideError, or whatever ended one of the threads: nothing is committed beyond what is durable.
        """
        listener = RebalanceListener(self._consumer, assigned=self._on_assigned, revoked=self._on_revoked, lost=self._on_lost)
        self._learn_topics()
        self._consumer.subscribe(self._topics, listener=listener)
        state = self._crew.state
        try:
            while not state.stopping.is_set():
                if state.failed is not None:
                    raise state.failed
                self._turn()
            self._finish()
            if state.failed is not None:
                raise state.failed
        finally:
            state.giving_up.set()
            self._close()

    def _learn_topics(self) -> None:
        """Have the client know the topics before it joins: a group leader that does not know them assigns nothing to anybody."""
        self._learned = self._crew.state.monotonic()
        try:
            missing = [topic for topic in self._topics if not self._consumer.partitions_for_topic(topic)]
        except KafkaError as error:
            self._positions.failed("asking for topics", error)
            return
        waiting, before = self._crew.state.waiting, self._crew.state.waiting.pop(_TOPICS, None)
        if missing:
            why = f"expected {', '.join(missing)} to exist, got no such topic; make it with python -m streaming.topics"
            waiting[_TOPICS] = why
            if why != before:
                _log.warning("%s", why)

    def _turn(self) -> None:
        state = self._crew.state
        state.beat(THREAD)
        room = self._crew.worker.has_room(_ROOM_SECONDS)
        if room and self._held is not None:
            self._crew.worker.submit(self._held)
            self._held, room = None, False
        messages = self._poll(paused=not room or self._full())
        if messages:
            self._events += len(messages)
            self._crew.metrics.progress(self._clock())
            self._held = Batch(messages, self._crew.progress.stamp(messages))
            if room:
                self._crew.worker.submit(self._held)
                self._held = None
        self._checkpoint_if_due()
        self._commit_if_durable()
        self._positions.measure()
        if state.monotonic() - self._learned >= _TOPICS_SECONDS:
            self._learn_topics()

    def _full(self) -> bool:
        """Whether no more may be read before a checkpoint is done."""
        return self._positions.uncommitted() >= self._settings.stream_max_uncommitted or self._heavy()

    def _heavy(self) -> bool:
        return self._crew.settler.held_bytes >= _HELD_BYTES

    def _poll(self, *, paused: bool) -> list[Message]:
        """Records, or none while paused: the membership needs a poll all the same."""
        mine = self._consumer.assignment()
        now_paused = self._consumer.paused()
        if paused and mine - now_paused:
            self._consumer.pause(*(mine - now_paused))
        if not paused and now_paused:
            self._consumer.resume(*now_paused)
        try:
            polled = self._consumer.poll(timeout_ms=_POLL_MS, max_records=self._settings.stream_poll_records)
        except KafkaError as error:
            self._positions.failed("polling", error)
            self._crew.state.stopping.wait(_PAUSE_SECONDS)
            return []
        messages = [_message(record) for records in polled.values() for record in records]
        if messages or paused:
            self._positions.heard()
        for message in messages:
            self._positions.note(message)
        return messages

    def _checkpoint_if_due(self) -> None:
        settings, now = self._settings, self._crew.state.monotonic()
        due = now - self._checkpointed >= settings.stream_checkpoint_seconds or self._events >= settings.stream_checkpoint_events
        if self._barrier is None and due:
            offsets = self._positions.fresh(self._crew.progress.snapshot())
            self._checkpointed = now
            # What holds the bytes may be of a batch that was abandoned, and then no offset goes on.
            if offsets or self._heavy():
                self._barrier, self._barrier_since, self._events = self._crew.settler.checkpoint(offsets), now, 0

    def _commit_if_durable(self) -> None:
        barrier = self._barrier
        if barrier is not None and barrier.done.is_set():
            self._crew.metrics.checkpoint(self._crew.state.monotonic() - self._barrier_since)
            if self._commit(barrier.offsets):
                self._barrier = None

    def _commit(self, offsets: Offsets, seconds: float = COMMIT_SECONDS) -> bool:
        done = self._positions.commit(offsets, seconds)
        if done:
            _log.debug("committed", extra={"offsets": {f"{p.topic}[{p.partition}]": at.offset for p, at in offsets.items()}})
            self._trace(Point.COMMITTED)
        return done

    def _finish(self) -> None:
        """Finish the batch in work, make it durable, commit; bounded in time."""
        _log.info("stopping: finishing what was begun")
        self._give_up([Partition(*tp) for tp in self._consumer.assignment()], _LEAVE_SECONDS)

    def _give_up(self, partitions: Partitions, seconds: float) -> None:
        """Bring `partitions` to an end within `seconds`: committed as far as it is durable by then."""
        state, worker, self._held = self._crew.state, self._crew.worker, None
        ends = state.monotonic() + seconds
        worker.withdraw()
        for batch in worker.pending():
            if not self._awaited(batch.finished, (state.monotonic() + ends) / 2):
                batch.abandoned.set()
        offsets = {p: at for p, at in self._crew.progress.snapshot().items() if p in set(partitions)}
        barrier = self._crew.settler.checkpoint(offsets)
        if self._awaited(barrier.done, ends):
            self._commit(offsets, min(COMMIT_SECONDS, max(_LAST_COMMIT_SECONDS, ends - state.monotonic())))
        else:
            _log.warning("partitions left without a commit: a replay does the work again")

    def _awaited(self, event: threading.Event, until: float) -> bool:
        """Whether `event` is set by `until`; a long wait is not taken for a thread that is stuck."""
        state = self._crew.state
        while not event.wait(_WAIT_SECONDS) and state.monotonic() < self._limited(until) and state.failed is None:
            state.beat(THREAD)
        return event.is_set()

    def _limited(self, until: float) -> float:
        """`until`, or earlier where the process is told to stop: all that is left to be done then has one limit."""
        state = self._crew.state
        if not state.stopping.is_set():
            return until
        if self._leave_by is None:
            self._leave_by = state.monotonic() + _LEAVE_SECONDS
        return min(until, self._leave_by)

    def _on_assigned(self, partitions: Partitions) -> None:
        self._crew.metrics.rebalance("assigned")
        self._crew.progress.assigned(partitions)
        self._crew.state.assigned = len(self._consumer.assignment())
        _log.info("assigned %d partitions", len(partitions))

    def _on_revoked(self, partitions: Partitions) -> None:
        self._crew.metrics.rebalance("revoked")
        try:
            self._trace(Point.REVOKING)
            # The client revokes once more when it is closed: what was to be done is done by then, or left to a replay.
            if not self._crew.state.giving_up.is_set():
                self._give_up(partitions, self._settings.stream_poll_interval_ms / 1e3 * _REVOKE_SHARE)
        except BaseException as error:  # the edge of the thread: the loop raises it
            self._crew.state.failed = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._forget(partitions)

    def _on_lost(self, partitions: Partitions) -> None:
        self._crew.metrics.rebalance("lost")
        _log.warning("lost %d partitions: the group went on without this consumer", len(partitions))
        self._held = None
        self._crew.worker.withdraw()
        for batch in self._crew.worker.pending():
            batch.abandoned.set()
        self._forget(partitions)

    def _forget(self, partitions: Partitions) -> None:
        self._crew.progress.revoked(partitions)
        self._positions.forget(partitions)

    def _close(self) -> None:
        try:
            self._consumer.close(timeout_ms=3_000)
        except KafkaError as error:
            _log.warning("the consumer did not leave the group cleanly: %s", type(error).__name__)


def _message(record: Any) -> Message:
    timestamp = -1 if record.timestamp is None else record.timestamp
    return Message(record.topic, record.partition, record.offset, record.key, record.value, tuple(record.headers), timestamp)
