"""Records on their way to the broker: sent at once, kept until they are acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RecordListTooLargeError

from moontide.errors import Misconfigured, Transient
from moontide.kafka.errors import translated_error

#: Longest wait for acknowledgements before the caller is told, in seconds.
WAIT_SECONDS: Final = 30.0

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_Headers = list[tuple[str, bytes]]


class Outgoing(NamedTuple):
    """One record to send; `timestamp_ms` None leaves the time to the producer."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None


class Pending(Protocol):
    """What a producer returns for a record (`kafka.producer.future.FutureRecordMetadata`)."""

    def get(self, timeout: float | None = None) -> object:
        """Wait; raises the `KafkaError` it failed with, or `KafkaTimeoutError`."""

    def failed(self) -> bool:
        """Whether it is known to have failed."""


class Producer(Protocol):
    """The part of `kafka.KafkaProducer` that is used."""

    def send(self, topic: str, value: bytes | None, key: bytes | None, headers: _Headers, *, timestamp_ms: int | None) -> Pending:
        """Send one record."""


class _Slot:
    __slots__ = ("pending", "record")

    def __init__(self, record: Outgoing) -> None:
        self.record = record
        self.pending: Pending | None = None


class Outbox:
    """Unacknowledged records by slot; a record put into a slot replaces the one before. Used by one thread.

    `put` never fails for the broker's sake: what could not be sent is kept and sent again by `wait`.

    Args:
        producer: idempotent, acks=all, so that two records of one slot arrive in order.
        what: names the records in errors.
        smaller: what to send where a record is larger than producer or broker take; None is a lasting failure.
    """

    def __init__(self, producer: Producer, what: str, smaller: Callable[[Outgoing], Outgoing | None] | None = None) -> None:
        self._producer = producer
        self._what = what
        self._smaller = smaller
        self._slots: dict[Hashable, _Slot] = {}
        self._stuck: KafkaError | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, slot: Hashable) -> bool:
        return slot in self._slots

    def put(self, slot: Hashable, record: Outgoing) -> None:
        """Send without waiting; while the producer is stuck, only keep.

        Raises:
            Misconfigured: the record is too large and there is nothing smaller, or the broker refuses this client.
        """
        self._slots[slot] = made = _Slot(record)
        # A stuck producer blocks every send for its full time: one try is enough until `wait` tries again.
        if self._stuck is None:
            self._stuck = self._send(made)

    def wait(self, timeout: float = WAIT_SECONDS) -> None:
        """Until every record is acknowledged. Those that had failed before are sent again; those that fail meanwhile, next time.

        Raises:
            Transient: some are not acknowledged after `timeout` seconds, or failed; all of those are kept.
            Misconfigured: the broker refuses this client, or a record for its size.
        """
        deadline = time.monotonic() + timeout
        self._stuck = self._resend()
        failure = self._stuck
        for slot, made in list(self._slots.items()):
            error = self._awaited(made, deadline) if made.pending is not None else failure
            if error is None:
                del self._slots[slot]
            else:
                failure = failure or error
        if self._slots:
            name = type(failure).__name__ if failure else "no answer"
            left = len(self._slots)
            raise Transient(f"{self._what}: expected acknowledgements of {left} records, got {name}; is the broker up? waiting")

    def _resend(self) -> KafkaError | None:
        for made in self._slots.values():
            if made.pending is not None and made.pending.failed():
                self._take_failure(made)
            if made.pending is None:
                error = self._send(made)
                if error is not None:
                    return error
        return None

    def _take_failure(self, made: _Slot) -> None:
        """Look at why a send failed; afterwards it counts as not sent."""
        assert made.pending is not None
        try:
            made.pending.get(timeout=0)
        except _TOO_LARGE as error:
            self._shrink(made, error)
        except KafkaError as error:
            self._check(error)
            made.pending = None

    def _awaited(self, made: _Slot, deadline: float) -> KafkaError | None:
        assert made.pending is not None
        try:
            made.pending.get(timeout=max(0.0, deadline - time.monotonic()))
        except _TOO_LARGE as error:
            self._shrink(made, error)
            return self._send(made) or self._awaited(made, deadline)
        except KafkaError as error:
            self._check(error)
            return error
        return None

    def _send(self, made: _Slot) -> KafkaError | None:
        record = made.record
        try:
            made.pending = self._producer.send(
                record.topic, record.value, record.key, list(record.headers), timestamp_ms=record.timestamp_ms
            )
        except _TOO_LARGE as error:
            self._shrink(made, error)
            return self._send(made)
        except KafkaError as error:
            self._check(error)
            return error
        return None

    def _shrink(self, made: _Slot, error: KafkaError) -> None:
        less = None if self._smaller is None else self._smaller(made.record)
        if less is None:
            size = len(made.record.value or b"")
            raise Misconfigured(
                f"{self._what}: expected the broker to take a value of {size:,} bytes, got {type(error).__name__}; "
                "raise max.message.bytes of the topic and max_request_size of the producer"
            ) from error
        made.record, made.pending = less, None

    def _check(self, error: KafkaError) -> None:
        translated = translated_error(error, f"sending to {self._what}")
        if isinstance(translated, Misconfigured):
            raise translated from error


def require_topic(producer: KafkaProducer, topic: str) -> None:
    """Refuse a topic that is not there; a send would only time out.

    Raises:
        Misconfigured: the brokers know no such topic, or refuse this client.
        Transient: they do not answer.
    """
    try:
        producer.partitions_for(topic)
    except KafkaTimeoutError as error:
        raise Misconfigured(
            f"topic {topic}: expected it to exist, got no partitions of it; make it (python -m streaming.topics), or look at the "
            "brokers"
        ) from error
    except KafkaError as error:
        raise translated_error(error, f"asking for topic {topic}") from error


def close_producer(producer: KafkaProducer, seconds: float) -> None:
    """Close it; what is not acknowledged within `seconds` is given up in silence: who needed it has waited for it."""
    with suppress(KafkaError):
        producer.close(seconds)
