"""What is read from Kafka and what becomes of it: values that every part of the consumer shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import pyarrow as pa

from moontide.views import ViewSpec

#: Called at named points of the flow with the point's name; tests stop or kill the process there.
Trace = Callable[[str], None]


class Point(StrEnum):
    """The named points of the flow, in the order a record passes them."""

    POLLED = "polled"
    PARSED = "parsed"
    PLANNED = "planned"
    ENCODED = "encoded"
    ONLINE_WRITTEN = "online_written"
    """Between the online write and the index: the record is current, nothing follows it yet."""
    INDEX_WRITTEN = "index_written"
    CHANGES_SENT = "changes_sent"
    DEAD_LETTER_SENT = "dead_letter_sent"
    OFFLINE_WRITTEN = "offline_written"
    INDEX_FLUSHED = "index_flushed"
    SENDS_AWAITED = "sends_awaited"
    AUDITED = "audited"
    COMMITTED = "committed"
    REVOKING = "revoking"


def no_trace(point: str) -> None:
    """The `Trace` of production: nothing."""


class Message(NamedTuple):
    """One record of a topic, as it came. `timestamp_ms` is Kafka's; -1 where there is none."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = -1

    @property
    def position(self) -> str:
        """``topic[partition]@offset``, as logs and dead letters name it."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

    def bare(self) -> Message:
        """The same without key, value and headers."""
        return self._replace(key=None, value=None, headers=())

    @property
    def payload_bytes(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


class Verdict(StrEnum):
    """What became of one message; each message gets one per processing."""

    APPLIED = "applied"
    STALE = "stale"
    UNCHANGED = "unchanged"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one message.

    Attributes:
        message: what it is about.
        verdict: what became of it.
        event_id: the event's own id where it could be read.
        entity_id: the item or user where it could be read.
        reason: of a dead letter, a stable word (`moontide.events.EventReason`, `encoders.Reason`, `streaming.encoding.Fault`).
        detail: of a dead letter, for people: expected, got, what to do; never the payload.
        error: class name of the exception a dead letter stands for.
        attempts: how often it was tried.
    """

    message: Message
    verdict: Verdict
    event_id: str | None = None
    entity_id: str | None = None
    reason: str = ""
    detail: str = ""
    error: str = "moontide.errors.Poison"
    attempts: int = 1


@dataclass(slots=True)
class Effects:
    """What is to be written for some messages, and the verdicts that hold once it is.

    Attributes:
        rows: tables of ``view.table``'s schema, written online and, at the checkpoint, offline. Rows of one entity are its
            versions in rising order: all go to the offline table, only the last is worth an online write.
        online_only: written online; what the offline table gets is the record as it stands at the checkpoint (`touched`).
        touched: entities whose current online record is to be re-driven to every sink at the checkpoint without a new write:
            replayed events that found their record equal, and merged sequences.
        results: one per message these effects settle.
    """

    rows: list[tuple[ViewSpec, pa.Table]] = field(default_factory=list)
    online_only: list[tuple[ViewSpec, pa.Table]] = field(default_factory=list)
    touched: list[tuple[ViewSpec, list[str]]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


#: Kafka's own "no timestamp".
NO_TIMESTAMP: Final = -1
