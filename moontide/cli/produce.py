"""``moontide produce``: a file of events, line by line, to the topics they belong to."""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from moontide.cli.console import say
from moontide.errors import MoontideError, Poison
from moontide.events import parse_behaviour, parse_item
from moontide.names import ITEM_ID, TOPIC_BEHAVIOUR_EVENTS, TOPIC_ITEM_EVENTS, USER_ID
from moontide.settings import Settings
from moontide.stores.kv import wall_clock

#: Records on their way at once.
_WINDOW: Final = 1_000
_CLOSE_SECONDS: Final = 10.0
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_WRAPPER: Final = frozenset({"topic", "key", "value", "value_base64", "headers", "timestamp_ms"})


class Line(NamedTuple):
    """One record to send. `raw` is one that the file gave whole: nothing about it is checked."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    raw: bool = False


def produce(
    settings: Settings, source: Path, *, topic: str | None = None, rate: float | None = None, checked: bool = True
) -> int:
    """Send each line of `source` (``-``: standard input) and wait until the brokers have all of them; returns 0.

    A file is checked whole before its first record is sent; standard input line by line.

    Args:
        settings: the brokers, and the largest event.
        source: JSON Lines.
        topic: where events go that name no topic; default: by their fields.
        rate: records per second; default: as fast as it goes.
        checked: refuse a file with an event that the consumer would refuse.

    Raises:
        Poison: a line is no event, with its number; of a file nothing was sent.
        Transient, Misconfigured: the brokers; some records may have been sent.
    """
    from streaming import clients, outbox

    if checked and str(source) != "-":
        for _ in _lines(source, settings, topic, checked=True):
            pass
    producer = clients.producer(settings)
    try:
        return _send_all(producer, _lines(source, settings, topic, checked=checked), rate)
    finally:
        outbox.close_producer(producer, _CLOSE_SECONDS)


def read_line(text: str, topic: str | None = None) -> Line:
    """The record that one line stands for: an event, or ``{"topic", "key", "value", "headers", "timestamp_ms"}``.

    In the latter ``value_base64`` may stand in the place of ``value``, which is text, null, or an object.

    Raises:
        Poison: neither.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Poison('expected a JSON object, got something else; wrap other bytes as {"topic": ..., "value": ...}')
    if "topic" in fields and ("value" in fields or "value_base64" in fields) and "schema_version" not in fields:
        return _wrapped(fields)
    user, item = fields.get(USER_ID), fields.get(ITEM_ID)
    entity = item if user is None else user
    where = topic or (TOPIC_ITEM_EVENTS if user is None else TOPIC_BEHAVIOUR_EVENTS)
    return Line(
        where,
        entity.encode("utf-8", "replace") if isinstance(entity, str) else None,
        text.strip().encode("utf-8", "surrogateescape"),
    )


def _wrapped(fields: dict[str, Any]) -> Line:
    topic = fields["topic"]
    known = set(fields) <= _WRAPPER and isinstance(topic, str) and _TOPIC.fullmatch(topic) is not None
    if not known or not isinstance(fields.get("key"), str | None):
        raise Poison(f"expected a record of {sorted(_WRAPPER)} with a topic and a key that is text or null, got another")
    headers = fields.get("headers") or []
    stamp = fields.get("timestamp_ms")
    if (
        not isinstance(stamp, int | None)
        or not 0 <= (stamp or 0) < 1 << 63
        or not isinstance(headers, list)
        or not all(_is_header(header) for header in headers)
    ):
        raise Poison('expected headers like [["name", "value"]] and an integer timestamp_ms, got others')
    key = None if fields.get("key") is None else fields["key"].encode("utf-8", "replace")
    value = _value(fields)
    if key is None and value is None:
        raise Poison("expected a key or a value, got neither")
    pairs = tuple((name, text.encode("utf-8", "replace")) for name, text in headers)
    return Line(topic, key, value, pairs, stamp, raw=True)


def _is_header(header: object) -> bool:
    return isinstance(header, list) and len(header) == 2 and all(isinstance(part, str) for part in header)


def _value(fields: dict[str, Any]) -> bytes | None:
    encoded = fields.get("value_base64")
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise Poison("value_base64: expected base64, got something else") from None
    value = fields.get("value")
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _lines(source: Path, settings: Settings, topic: str | None, *, checked: bool) -> Iterator[Line]:
    if str(source) == "-":
        yield from _checked(sys.stdin.buffer, "-", settings, topic, checked)
        return
    try:
        with source.open("rb") as lines:
            yield from _checked(lines, str(source), settings, topic, checked)
    except OSError as error:
        raise Poison(f"{source}: expected a readable text file, got {type(error).__name__}") from None


def _checked(lines: Iterable[bytes], name: str, settings: Settings, topic: str | None, checked: bool) -> Iterator[Line]:
    # Decoded line by line: a decoder of the whole stream reads ahead, and would fail before the lines in front are sent.
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = _decoded(line)
            made = read_line(text, topic)
            if checked and not made.raw:
                _check(made, text, settings)
        except Poison as error:
            raise Poison(f"{name}, line {number}: {error}") from None
        yield made


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Poison(
            f"expected UTF-8, got byte 0x{line[error.start]:02x} at position {error.start + 1}; "
            'wrap other bytes as {"topic": ..., "value_base64": ...}'
        ) from None


def _check(line: Line, text: str, settings: Settings) -> None:
    """Refuse what a consumer of this kind of event would: the kind is the topic's, of a topic that is not ours the fields'."""
    now_us, most = wall_clock(), settings.stream_event_bytes
    kind = line.topic if line.topic in {TOPIC_BEHAVIOUR_EVENTS, TOPIC_ITEM_EVENTS} else read_line(text).topic
    if kind == TOPIC_BEHAVIOUR_EVENTS:
        parse_behaviour(line.key, line.value, now_us=now_us, max_bytes=most)
    else:
        parse_item(line.key, line.value, (), -1, now_us=now_us, max_bytes=most)


def _send_all(producer: Any, lines: Iterator[Line], rate: float | None) -> int:
    from streaming.outbox import Outbox, Outgoing, require_topic

    box, sent, started = Outbox(producer, "produce"), Counter[str](), time.monotonic()
    try:
        for number, line in enumerate(lines):
            if rate:
                time.sleep(max(0.0, started + number / rate - time.monotonic()))
            if line.topic not in sent:
                require_topic(producer, line.topic)
            box.put(number, Outgoing(line.topic, line.key, line.value, line.headers, line.timestamp_ms))
            sent[line.topic] += 1
            if len(box) >= _WINDOW:
                box.wait()
        box.wait()
    except MoontideError:
        say(f"{sent.total()} records tried, {len(box)} of them not acknowledged")
        raise
    for topic, count in sorted(sent.items()):
        say(f"{topic}: {count:,} records sent")
    if not sent:
        say("no records")
    return 0
