"""``moontide replay-dlq``: dead letters back to the topics they came from."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final

from moontide.cli.console import complain, say, table
from moontide.errors import Poison, Transient
from moontide.names import TOPIC_DEAD_LETTERS
from moontide.settings import Settings

GROUP: Final = "moontide-replay"
_POLL_MS: Final = 500
_SILENT_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 10.0


def replay(
    settings: Settings, *, reason: str | None = None, limit: int | None = None, dry_run: bool = False, group: str | None = None
) -> int:
    """Send dead letters again, from where this group stands up to the end at the start; returns the exit code.

    Offsets are committed after the brokers have acknowledged what was sent: killed half-way and run again, it loses none and may
    send some twice, which the consumer finds stale or unchanged.

    Args:
        settings: the brokers.
        reason: only those that were refused for it; such runs have a group of their own per reason.
        limit: send at most so many.
        dry_run: send and commit nothing.
        group: where the position is kept, with ``-REASON`` behind it where a reason is given; default: ``moontide-replay``.

    Raises:
        Transient, Misconfigured: the brokers.
    """
    from moontide.kafka.errors import translated
    from streaming import clients
    from streaming.outbox import Outbox, close_producer

    run = _Replay(reason, limit)
    consumer = clients.consumer(settings, topics=(), group_id=_group_of(group, reason), group_instance_id=None)
    producer = None if dry_run else clients.producer(settings)
    try:
        with translated("reading dead letters"):
            run.over(consumer, None if producer is None else Outbox(producer, "replay"))
    finally:
        if producer is not None:
            close_producer(producer, _CLOSE_SECONDS)
        consumer.close(autocommit=False)
    return run.report(dry_run)


def _group_of(group: str | None, reason: str | None) -> str:
    """The consumer group that keeps the position of a run.

    A run for one reason passes others over: in the group of all it would move the position past letters that were never sent.
    """
    named = GROUP if group is None else group
    return named if reason is None else f"{named}-{reason}"


class _Replay:
    """One run. `sent` and `skipped` count by reason; `kept` are those that cannot be sent again."""

    def __init__(self, reason: str | None, limit: int | None) -> None:
        self.reason = reason
        self.limit = limit
        self.sent: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.kept: list[str] = []

    def over(self, consumer: Any, box: Any | None) -> None:
        """Read up to the end as it is now; without `box` nothing is sent or committed."""
        from kafka import TopicPartition

        partitions = [
            TopicPartition(TOPIC_DEAD_LETTERS, n) for n in sorted(consumer.partitions_for_topic(TOPIC_DEAD_LETTERS) or ())
        ]
        if not partitions:
            return
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        heard = time.monotonic()
        while not self._full() and any(consumer.position(partition) < end for partition, end in ends.items()):
            polled = consumer.poll(timeout_ms=_POLL_MS)
            done = {}
            for partition, records in polled.items():
                after = self._take([record for record in records if record.offset < ends[partition]], box)
                if after is not None:
                    done[partition] = after
            if polled:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENT_SECONDS:
                got = f"none for {_SILENT_SECONDS:.0f} s"
                raise Transient(f"{TOPIC_DEAD_LETTERS}: expected records up to the end, got {got}; try again")
            if box is not None and done:
                box.wait()
                consumer.commit(done)

    def _full(self) -> bool:
        return self.limit is not None and self.sent.total() >= self.limit

    def _take(self, records: list[Any], box: Any | None) -> Any | None:
        """Send those wanted; returns the position behind the last one looked at."""
        from kafka.structs import OffsetAndMetadata

        from streaming.dead_letters import original, reason_of
        from streaming.message import Message

        after = None
        for record in records:
            if self._full():
                break
            headers = tuple(record.headers)
            message = Message(record.topic, record.partition, record.offset, record.key, record.value, headers, record.timestamp)
            why = reason_of(message) or "unknown"
            after = OffsetAndMetadata(record.offset + 1, "", -1)
            if self.reason is not None and why != self.reason:
                self.skipped[why] += 1
                continue
            try:
                back = original(message)
            except Poison as error:
                self.kept.append(str(error))
                continue
            if box is not None:
                box.put((record.partition, record.offset), back)
            self.sent[why] += 1
        return after

    def report(self, dry_run: bool) -> int:
        """Print the counts; returns 1 where some could not be sent again."""
        rows = [[why, f"{count:,}"] for why, count in sorted(self.sent.items())]
        for line in (
            table(rows, head=["reason", "would be sent" if dry_run else "sent again"], right=[1]) if rows else ["nothing to send"]
        ):
            say(line)
        if self.skipped:
            say(f"{self.skipped.total():,} of other reasons passed over")
        for problem in self.kept:
            complain(f"not sent again: {problem}")
        return 1 if self.kept else 0
