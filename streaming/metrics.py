"""What the consumer counts and times, for Prometheus. `docs/reference/metrics.md` is the prose twin of this file."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from encoders import Reason
from moontide.errors import Misconfigured, Poison, Transient
from moontide.events import EventReason
from streaming.encoding import Fault
from streaming.message import Result, Verdict
from streaming.online_writes import REFUSED

#: Seconds from an event to what it causes: fine around the targets (p50 150 ms, p99 1 s), coarse up to an hour of catching up.
FRESHNESS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 900, 3600)
#: Seconds that a step of the consumer takes.
STEP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: Events or items handled together.
SIZE: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 10_000)

OTHER: Final = "other"
REASONS: Final = frozenset({REFUSED, *(str(reason) for enum in (EventReason, Reason, Fault) for reason in enum)})
REBALANCES: Final = ("assigned", "revoked", "lost")
#: Most values of a label that the code, not the data, decides; a mistake there may not flood the server of metrics.
MOST_WORDS: Final = 32

# One "created" series beside each counter doubles a page for nobody.
disable_created_metrics()


class Words:
    """The first `MOST_WORDS` values of a label as they are, all others as ``other``. Thread-safe."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._seen = set(known)
        self._lock = threading.Lock()

    def __call__(self, word: str) -> str:
        """`word`, or ``other`` when there are too many."""
        if word in self._seen:
            return word
        with self._lock:
            if len(self._seen) >= MOST_WORDS:
                return OTHER
            self._seen.add(word)
        return word


def error_kind(error: BaseException) -> str:
    """``transient``, ``poison``, ``misconfigured`` or ``other``: what the error makes the consumer do."""
    for kind in (Transient, Poison, Misconfigured):
        if isinstance(error, kind):
            return kind.__name__.lower()
    return OTHER


class Metrics:
    """All metrics of one consumer, in a registry of its own. Thread-safe; times are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._topic, self._stage, self._sink, self._space = Words(), Words(), Words(), Words()
        self._waits: dict[int, str] = {}
        self._waits_lock = threading.Lock()
        self._define_events()
        self._define_work()
        self._define_state()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

    def _define_events(self) -> None:
        self._events = self._counter("moontide_events", "Messages settled, by verdict", "topic", "verdict")
        self._dead = self._counter("moontide_dead_letters", "Messages dead-lettered, by reason", "topic", "reason")
        self._redriven = self._counter("moontide_redriven", "Current records sent again to every sink by a replay")
        self._readable = self._histogram(
            "moontide_event_to_readable_seconds", "Kafka timestamp to readable in the online store", "topic", buckets=FRESHNESS
        )
        self._searchable = self._histogram(
            "moontide_event_to_searchable_seconds", "Kafka timestamp to written in the index", buckets=FRESHNESS
        )
        self._tiers = self._histogram(
            "moontide_behaviour_to_tier_seconds",
            "Kafka timestamp of a behaviour to current tiers of its user",
            buckets=FRESHNESS,
        )
        self._gaps = self._counter("moontide_missing_records", "Offsets that were never seen: deleted by retention", "topic")
        self._skew = self._counter("moontide_clock_skew", "Events whose Kafka timestamp lies ahead of this clock")

    def _define_work(self) -> None:
        self._batch = self._histogram("moontide_batch_events", "Messages handled together", buckets=SIZE)
        self._items = self._histogram("moontide_encode_batch_items", "Items in one call of the encoder", buckets=SIZE)
        self._encode = self._histogram("moontide_encode_seconds", "One call of the encoder", buckets=STEP)
        self._stages = self._histogram("moontide_stage_seconds", "One step of the flow", "stage", buckets=STEP)
        self._checkpoint = self._histogram("moontide_checkpoint_seconds", "One checkpoint, until durable", buckets=STEP)
        self._errors = self._counter("moontide_sink_errors", "Failed calls of a sink", "sink", "kind")
        self._rebalances = self._counter("moontide_rebalances", "Changes of the assignment", "kind")
        self._encoder_restarts = self._gauge("moontide_encoder_restarts", "Times the encoder's child was started again", "space")
        self._space_info = self._gauge("moontide_space_info", "Spaces written, with the encoder's digest; 1", "space", "digest")

    def _define_state(self) -> None:
        self._lag = self._gauge("moontide_consumer_lag_records", "Records not yet polled", "topic", "partition")
        self._committed = self._gauge("moontide_committed_offset", "Next offset to read after a restart", "topic", "partition")
        self._uncommitted = self._gauge("moontide_uncommitted_records", "Records handled, whose offset is not committed")
        self._waiting = self._gauge("moontide_sink_waiting", "1 while calls of the sink fail and are retried", "sink")
        self._left_out = self._gauge("moontide_neighbours_left_out", "Neighbours of items not asked for, since start", "cause")
        self._restarts = self._gauge("moontide_watchdog_restarts", "Restarts of this process by its watchdog")
        self._progress = self._gauge("moontide_last_progress_timestamp_seconds", "Unix time of the last progress")

    def settled(self, results: Sequence[Result]) -> None:
        """B >= 0 verdicts: each counts once, a dead one under its reason as well."""
        for (topic, verdict), n in Tally((r.message.topic, r.verdict) for r in results).items():
            self._events.labels(self._topic(topic), verdict.value).inc(n)
        for (topic, reason), n in Tally((r.message.topic, r.reason) for r in results if r.verdict is Verdict.DEAD).items():
            self._dead.labels(self._topic(topic), reason if reason in REASONS else OTHER).inc(n)

    def batch(self, size: int) -> None:
        """Messages handled together."""
        self._batch.observe(size)

    def encoded(self, items: int, seconds: float) -> None:
        """One call of an encoder."""
        self._items.observe(items)
        self._encode.observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """One step of the flow, under a name from the code."""
        self._stages.labels(self._stage(name)).observe(seconds)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """`stage` with the time the block takes, also where it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stage(name, time.monotonic() - start)

    def readable(self, ages: Sequence[float], topic: str) -> None:
        """Ages of events of `topic` at the moment their effect became readable online; negative ones count as 0 and as skew."""
        self._observe(self._readable.labels(self._topic(topic)), ages)

    def searchable(self, ages: Sequence[float]) -> None:
        """Ages of item events at the moment the index had them; negative ones count as 0 and as skew."""
        self._observe(self._searchable, ages)

    def tiers(self, ages: Sequence[float]) -> None:
        """Ages of behaviours at the moment their user's tiers were current; negative ones count as 0 and as skew."""
        self._observe(self._tiers, ages)

    def _observe(self, histogram: Histogram, ages: Sequence[float]) -> None:
        for age in ages:
            histogram.observe(max(0.0, age))
        if ahead := sum(age < 0 for age in ages):
            self._skew.inc(ahead)

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Records of an assigned partition not yet polled."""
        self._lag.labels(self._topic(topic), partition).set(records)

    def gap(self, topic: str, records: int) -> None:
        """`records` offsets of a partition are gone before they were read."""
        self._gaps.labels(self._topic(topic)).inc(records)

    def committed(self, topic: str, partition: int, offset: int) -> None:
        """Offset the broker has: the next one to read."""
        self._committed.labels(self._topic(topic), partition).set(offset)

    def forget(self, topic: str, partition: int) -> None:
        """A partition is no longer this consumer's: its gauges go; nothing happens where there were none."""
        for gauge in (self._lag, self._committed):
            with contextlib.suppress(KeyError):
                gauge.remove(self._topic(topic), partition)

    def uncommitted(self, records: int) -> None:
        """Records handled, whose offset is not committed."""
        self._uncommitted.set(records)

    def checkpoint(self, seconds: float) -> None:
        """One checkpoint became durable."""
        self._checkpoint.observe(seconds)

    def redriven(self, n: int) -> None:
        """`n` current records were sent again to every sink."""
        self._redriven.inc(n)

    def failed(self, sink: str, error: BaseException) -> None:
        """A call of a sink failed."""
        self._errors.labels(self._sink(sink), error_kind(error)).inc()

    def waiting(self, sink: str | None) -> None:
        """The calling thread retries calls of `sink` from now on; None: it no longer waits for any."""
        with self._waits_lock:
            before = self._waits.pop(threading.get_ident(), None)
            if sink is not None:
                self._waits[threading.get_ident()] = self._sink(sink)
            for name in {before, None if sink is None else self._sink(sink)} - {None}:
                self._waiting.labels(name).set(name in self._waits.values())

    def rebalance(self, kind: str) -> None:
        """The assignment changed: ``assigned``, ``revoked`` or ``lost``."""
        self._rebalances.labels(kind if kind in REBALANCES else OTHER).inc()

    def restarted(self, n: int) -> None:
        """The watchdog restarted this process `n` times so far."""
        self._restarts.set(n)

    def left_out(self, failures: int, beyond: int) -> None:
        """So often the index did not answer, and so many items were beyond what one call may ask, since the start."""
        self._left_out.labels("index").set(failures)
        self._left_out.labels("bound").set(beyond)

    def encoder_restarts(self, space: str, n: int) -> None:
        """The encoder's child of `space` was started again `n` times so far."""
        self._encoder_restarts.labels(self._space(space)).set(n)

    def space_info(self, space_id: str, digest: str) -> None:
        """A space this consumer writes, with the digest of its encoder."""
        self._space_info.labels(self._space(space_id), digest).set(1)

    def progress(self, now_us: int) -> None:
        """Something was polled, settled or committed, or there was nothing to do, at `now_us` (microseconds UTC)."""
        self._progress.set(now_us / 1e6)

    def render(self) -> tuple[bytes, str]:
        """(body, content type) of a page for Prometheus."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
