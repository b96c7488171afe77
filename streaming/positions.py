"""Where the consumer stands in its partitions: read, committed, behind, and whether the broker answers."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, RebalanceInProgressError, UnknownMemberIdError

from moontide.errors import Misconfigured
from moontide.kafka.errors import translated_error
from moontide.stores.kv import Clock
from streaming.crew import Crew
from streaming.message import Message
from streaming.progress import Offsets, Partition
from streaming.rebalance import Partitions

#: How long a commit waits for its answer.
COMMIT_SECONDS: Final = 10.0
_LAG_SECONDS: Final = 1.0
_ENDS_SECONDS: Final = 5.0
_ASK_MS: Final = 2_000
_MARKERS: Final = 2
#: The group went on without us, or is about to: what is not committed is another's work.
_GROUP_MOVED: Final = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
_log = logging.getLogger(__name__)


class Positions:
    """Offsets read and committed, per partition. Thread-safe as far as `commit` and `forget` go.

    Args:
        consumer: the client.
        crew: progress, state and metrics.
        clock: microseconds UTC.
    """

    def __init__(self, consumer: KafkaConsumer, crew: Crew, clock: Clock) -> None:
        self._consumer = consumer
        self._crew = crew
        self._clock = clock
        self._lag_at = self._heard_at = crew.state.monotonic()
        self._read: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}

    def heard(self) -> None:
        """Records came, or none was asked for."""
        self._heard_at = self._crew.state.monotonic()
        self._crew.state.starving_since = None

    def note(self, message: Message) -> None:
        """One record was read; says so where the ones before it are gone."""
        partition = Partition(message.topic, message.partition)
        expected = self._read.get(partition)
        if expected is None:
            expected = self._last_committed(partition, message.offset)
            self._committed[partition] = min(expected, message.offset)
        elif message.offset < expected:
            # The topic was made anew, or its leader lost its end. What was done or committed says nothing of these records.
            _log.error("%s comes after offset %d: the partition begins anew", message.position, expected - 1)
            self._crew.progress.assigned([partition])
            self._committed[partition] = message.offset
        # A transaction of the producer takes an offset or two for itself.
        if message.offset > expected + _MARKERS:
            # Deleted by retention, or an aborted transaction: nobody but the producer can bring them back.
            _log.error("%d records before %s are gone", message.offset - expected, message.position)
            self._crew.metrics.gap(message.topic, message.offset - expected)
        self._read[partition] = message.offset + 1

    def uncommitted(self) -> int:
        """Records read whose offset is not committed."""
        return sum(offset - self._committed.get(p, offset) for p, offset in list(self._read.items()))

    def fresh(self, offsets: Offsets) -> Offsets:
        """Those of `offsets` that are not committed."""
        return {p: at for p, at in offsets.items() if at.offset > self._committed.get(p, -1)}

    def commit(self, offsets: Offsets, seconds: float = COMMIT_SECONDS) -> bool:
        """Commit what this consumer may, within `seconds`; returns whether there is nothing left to commit.

        Raises:
            Misconfigured: the broker will never take them.
        """
        offsets = self._crew.progress.valid(offsets)
        if not offsets:
            return True
        wanted = {TopicPartition(*p): OffsetAndMetadata(at.offset, "", -1) for p, at in offsets.items()}
        try:
            self._consumer.commit(wanted, timeout_ms=int(seconds * 1_000))
        except _GROUP_MOVED as error:
            _log.warning("offsets not committed, the group moved on: %s", type(error).__name__)
            return True
        except KafkaError as error:
            self.failed("committing", error)
            return False
        self._crew.state.waiting.pop("kafka", None)
        for partition, at in offsets.items():
            self._committed[partition] = max(at.offset, self._committed.get(partition, 0))
            self._crew.metrics.committed(partition.topic, partition.partition, at.offset)
        self._crew.metrics.progress(self._clock())
        return True

    def forget(self, partitions: Partitions) -> None:
        """Partitions are another's, or ours anew: what is not committed is to be read again."""
        for partition in partitions:
            if partition in self._committed:
                # The client keeps the place it reads at where a partition stays with its member, though all are revoked.
                with suppress(ValueError):
                    self._consumer.seek(TopicPartition(*partition), self._committed[partition])
            self._read.pop(partition, None)
            self._committed.pop(partition, None)
            self._crew.metrics.forget(*partition)

    def measure(self) -> bool:
        """Lag once a second; when nothing came for a while, ask the broker whether there is nothing. Returns whether it did."""
        state, now = self._crew.state, self._crew.state.monotonic()
        if now - self._lag_at >= _LAG_SECONDS:
            self._lag_at = now
            for tp in self._consumer.assignment():
                high = self._consumer.highwater(tp)
                if high is not None:
                    self._crew.metrics.lag(tp.topic, tp.partition, max(0, high - self._read.get(Partition(*tp), high)))
            self._crew.metrics.uncommitted(self.uncommitted())
        if now - self._heard_at < _ENDS_SECONDS:
            return False
        self._heard_at = now
        waiting = self._records_waiting()
        state.starving_since = (state.starving_since or now) if waiting else None
        if not waiting:
            self._crew.metrics.progress(self._clock())
        return True

    def failed(self, doing: str, error: KafkaError) -> None:
        """Note that Kafka failed, to be tried again.

        Raises:
            Misconfigured: trying again is no use.
        """
        found = translated_error(error, doing)
        if isinstance(found, Misconfigured):
            raise found from error
        self._crew.metrics.failed("kafka", found)
        self._crew.state.waiting["kafka"] = str(found)
        _log.warning("%s", found)

    def _last_committed(self, partition: Partition, default: int) -> int:
        try:
            found = self._consumer.committed(TopicPartition(*partition), timeout_ms=_ASK_MS)
        except KafkaError:
            return default
        return default if found is None else int(found)

    def _records_waiting(self) -> bool:
        mine = list(self._consumer.assignment())
        try:
            ends = self._consumer.end_offsets(mine, timeout_ms=_ASK_MS) if mine else {}
            found = any(end > (self._consumer.position(tp, timeout_ms=_ASK_MS) or 0) for tp, end in ends.items())
        except KafkaError as error:
            self.failed("asking for the ends of partitions", error)
            return False
        self._crew.state.waiting.pop("kafka", None)
        return found
