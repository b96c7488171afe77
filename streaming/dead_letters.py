"""Poison on its way to the dead-letter topic: the record as it came, and headers that say what was wrong with it.

The headers of the record come first, as they were; ours follow as one block that starts with the last ``__connect.errors.topic``.
`docs/reference/events.md` lists them.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

from moontide.errors import Poison
from moontide.events import EventReason, Headers
from moontide.names import TOPIC_DEAD_LETTERS
from moontide.stores.kv import Clock
from streaming.message import NO_TIMESTAMP, Message, Point, Result, Trace, no_trace
from streaming.outbox import WAIT_SECONDS, Outbox, Outgoing, Producer

CONNECT: Final = "__connect.errors."
OURS: Final = "__moontide.errors."
ATTEMPTS: Final = OURS + "attempts"
FIRST_SEEN: Final = OURS + "first_seen_ms"
REASON: Final = OURS + "reason"
#: What Kafka's Python client cannot send, and is sent as empty bytes: ``key``, ``header:<position>``.
SUBSTITUTED: Final = OURS + "substituted"
#: The value was too large for the topic: its digest and length stand for it.
VALUE_SHA256: Final = OURS + "value_sha256"
VALUE_BYTES: Final = OURS + "value_bytes"

#: These two come back with a record that is replayed, and count on.
_CARRIED: Final = (ATTEMPTS, FIRST_SEEN)
_MESSAGE_CHARS: Final = 1_000
_CLAIM_KEY_BYTES: Final = 1_024
_CLAIM_HEADER_BYTES: Final = 16_384
_CONNECTOR: Final = "moontide"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PARSER: Final = frozenset(reason.value for reason in EventReason)


class DeadLetters:
    """The dead-letter topic. Used by one thread.

    Args:
        producer: acks=all, of its own and not idempotent (a record that is too large would end it), with a request size above the
            largest event and its headers.
        clock: microseconds UTC.
        trace: called at `Point.DEAD_LETTER_SENT` after each `send`.
        topic: where they go.
    """

    def __init__(self, producer: Producer, *, clock: Clock, trace: Trace = no_trace, topic: str = TOPIC_DEAD_LETTERS) -> None:
        self._outbox = Outbox(producer, topic, smaller=claim)
        self._clock = clock
        self._trace = trace
        self._topic = topic

    def send(self, result: Result) -> None:
        """Send one without waiting; known to have arrived after `wait`. One that is on its way already is not sent twice.

        Raises:
            Misconfigured: the broker refuses this client.
        """
        message = result.message
        slot = (message.topic, message.partition, message.offset)
        if slot not in self._outbox:
            self._outbox.put(slot, dead_letter(result, self._clock() // 1_000, topic=self._topic))
        self._trace(Point.DEAD_LETTER_SENT)

    def wait(self, timeout: float = WAIT_SECONDS) -> None:
        """Until all that was sent is acknowledged by all in-sync replicas.

        Raises:
            Transient: not all is; call again, which sends again what failed.
            Misconfigured: the broker refuses this client, or even a dead letter without its value is too large for the topic.
        """
        self._outbox.wait(timeout)


def dead_letter(result: Result, now_ms: int, *, topic: str = TOPIC_DEAD_LETTERS) -> Outgoing:
    """The record that stands for a refused one: its key, value, headers and timestamp, and why it was refused."""
    message = result.message
    key, kept, substituted = _sendable(message)
    carried = _carried(message.headers)
    ours = [
        (CONNECT + "topic", message.topic),
        (CONNECT + "partition", str(message.partition)),
        (CONNECT + "offset", str(message.offset)),
        (CONNECT + "connector.name", _CONNECTOR),
        (CONNECT + "task.id", "0"),
        (CONNECT + "stage", "VALUE_CONVERTER" if result.reason in _PARSER else "TASK_PUT"),
        (CONNECT + "class.name", "moontide.events" if result.reason in _PARSER else "streaming.worker"),
        (CONNECT + "exception.class.name", result.error),
        (CONNECT + "exception.message", result.detail[:_MESSAGE_CHARS]),
        (CONNECT + "exception.stacktrace", ""),
        (REASON, result.reason),
        (OURS + "event_id", result.event_id or ""),
        (OURS + "entity_id", result.entity_id or ""),
        (ATTEMPTS, str(carried.get(ATTEMPTS, 0) + result.attempts)),
        (FIRST_SEEN, str(carried.get(FIRST_SEEN, now_ms))),
    ]
    if substituted:
        ours.append((SUBSTITUTED, ",".join(substituted)))
    timestamp_ms = None if message.timestamp_ms == NO_TIMESTAMP else message.timestamp_ms
    headers = (*kept, *((name, text.encode("utf-8", "replace")) for name, text in ours))
    return Outgoing(topic, key, message.value, headers, timestamp_ms)


def claim(record: Outgoing) -> Outgoing | None:
    """What goes to the topic where a dead letter is too large for it: digest and length in the place of the value.

    A key above 1 KB and original headers above 16 KB go too, and are named as substituted. None where it is a claim already.
    """
    theirs, ours = split_headers(record.headers)
    if any(name == VALUE_SHA256 for name, _ in ours):
        return None
    value = record.value or b""
    digest = hashlib.sha256(value).hexdigest()
    gone = []
    key = record.key
    if key is not None and len(key) > _CLAIM_KEY_BYTES:
        gone.append("key")
        key = b""
    if sum(len(name) + len(text or b"") for name, text in theirs) > _CLAIM_HEADER_BYTES:
        gone.append("headers")
        theirs = ()
    known = [part for name, text in ours if name == SUBSTITUTED for part in (text or b"").decode("ascii").split(",")]
    block = [(name, text) for name, text in ours if name != SUBSTITUTED]
    block += [(VALUE_SHA256, digest.encode()), (VALUE_BYTES, str(len(value)).encode())]
    if known or gone:
        block.append((SUBSTITUTED, ",".join([*known, *gone]).encode()))
    text = json.dumps({"moontide_claim": {"sha256": digest, "bytes": len(value)}}).encode()
    return record._replace(key=key, value=text, headers=tuple((name, value or b"") for name, value in (*theirs, *block)))


def original(message: Message) -> Outgoing:
    """The record that a dead letter stands for, addressed to the topic it came from.

    It carries on the number of attempts and the time it was first refused, which count on if it is refused again.

    Raises:
        Poison: no dead letter of ours, or one whose value was too large to be kept.
    """
    theirs, ours = split_headers(message.headers)
    last = {name: value for name, value in ours}
    topic = (last.get(CONNECT + "topic") or b"").decode("utf-8", "replace")
    if _TOPIC.fullmatch(topic) is None:
        raise Poison(f"{message.position}: expected a dead letter with a topic in {CONNECT}topic, got none; produce it by hand")
    if VALUE_SHA256 in last:
        raise Poison(f"{message.position}: expected the value, got only its digest; it was too large, read it in {topic} itself")
    back = tuple((name, value) for name in _CARRIED if (value := last.get(name)) is not None)
    timestamp_ms = None if message.timestamp_ms == NO_TIMESTAMP else message.timestamp_ms
    headers = tuple((name, value or b"") for name, value in theirs)
    return Outgoing(topic, message.key, message.value, (*headers, *back), timestamp_ms)


def reason_of(message: Message) -> str:
    """Why a dead letter was refused; empty where it does not say."""
    _, ours = split_headers(message.headers)
    return next(((value or b"").decode("utf-8", "replace") for name, value in reversed(ours) if name == REASON), "")


def split_headers(headers: Headers) -> tuple[Headers, Headers]:
    """The headers a record came with, and the block that made it a dead letter (empty where there is none)."""
    starts = [at for at, (name, _) in enumerate(headers) if name == CONNECT + "topic"]
    at = starts[-1] if starts else len(headers)
    return headers[:at], headers[at:]


def _sendable(message: Message) -> tuple[bytes | None, list[tuple[str, bytes]], list[str]]:
    """Key and headers as the client can send them, without the carried ones, and what had to be emptied for that."""
    key, substituted = message.key, []
    if key is None and message.value is None:
        key = b""
        substituted.append("key")
    theirs = [(name, value) for name, value in message.headers if name not in _CARRIED]
    substituted += [f"header:{at}" for at, (_, value) in enumerate(theirs) if value is None]
    return key, [(name, value or b"") for name, value in theirs], substituted


def _carried(headers: Headers) -> dict[str, int]:
    """Attempts and first refusal of a record that was replayed; what is no number is left out."""
    found = {}
    for name, value in headers:
        if name in _CARRIED and value is not None and value.isdigit() and len(value) < 19:
            found[name] = int(value)
    return found
