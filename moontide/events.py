"""Events as they come from Kafka: two JSON formats, checked field by field, and the reasons for which one is poison.

`docs/reference/events.md` is the prose twin of this file, ``docs/reference/item-event.schema.json`` and
``behaviour-event.schema.json`` the machine-readable one.
"""

from __future__ import annotations

import re
from typing import Final

from moontide import event_json
from moontide.event_json import MAX_DEPTH, MAX_EVENT_BYTES, Fields
from moontide.event_types import SCHEMA_VERSION, BadEvent, BehaviourEvent, Content, EventReason, ItemEvent
from moontide.event_write import behaviour_event_json, item_event_json, rfc3339
from moontide.names import is_id

__all__ = [
    "HEADER_SOURCE_VERSION",
    "MAX_DEPTH",
    "MAX_EVENT_BYTES",
    "SCHEMA_VERSION",
    "BadEvent",
    "BehaviourEvent",
    "Content",
    "EventReason",
    "Headers",
    "ItemEvent",
    "behaviour_event_json",
    "item_event_json",
    "parse_behaviour",
    "parse_content",
    "parse_item",
    "rfc3339",
]

Headers = tuple[tuple[str, bytes | None], ...]
#: Header of a tombstone: the version of the delete in ASCII digits.
HEADER_SOURCE_VERSION: Final = "source_version"

_WRITES: Final = frozenset({"create", "update", "c", "u", "r"})
_DELETES: Final = frozenset({"delete", "d"})
_DIGITS = re.compile(rb"-?[0-9]{1,19}")


def parse_item(
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    timestamp_ms: int,
    *,
    now_us: int,
    max_bytes: int = MAX_EVENT_BYTES,
) -> ItemEvent:
    """One record of ``item-events``.

    Args:
        key: null, or the item id: the key is what keeps the events of one item in order.
        value: a JSON object, or null: a tombstone, which needs a key.
        headers: read for a tombstone only.
        timestamp_ms: Kafka's timestamp; the time of a tombstone.
        now_us: the clock, microseconds UTC.
        max_bytes: largest value.

    Raises:
        BadEvent: it can never be applied; with the ids that could be read.
    """
    if value is None:
        return _tombstone(key, headers, timestamp_ms, now_us)
    fields = event_json.read_object(value, max_bytes)
    try:
        return _item(fields, key, now_us)
    except BadEvent as error:
        raise _named(error, fields, "item_id") from None


def parse_behaviour(key: bytes | None, value: bytes | None, *, now_us: int, max_bytes: int = MAX_EVENT_BYTES) -> BehaviourEvent:
    """One record of ``behaviour-events``; the key is null or the user id.

    Raises:
        BadEvent: it can never be applied; with the ids that could be read.
    """
    fields = event_json.read_object(value, max_bytes)
    try:
        _check_schema(fields)
        made = BehaviourEvent(
            event_json.event_id(event_json.required(fields, "event_id")),
            event_json.entity_id(event_json.required(fields, "user_id"), "user_id"),
            event_json.entity_id(event_json.required(fields, "item_id"), "item_id"),
            event_json.action(event_json.required(fields, "action")),
            event_json.micros(event_json.required(fields, "event_timestamp"), "event_timestamp"),
        )
        _check_key(key, made.user_id, "user_id")
        event_json.check_not_ahead(made.event_us, now_us, "event_timestamp")
    except BadEvent as error:
        raise _named(error, fields, "user_id") from None
    return made


def parse_content(value: bytes, *, max_bytes: int = MAX_EVENT_BYTES) -> Content:
    """What a `content_ref` leads to: a JSON file that holds the object which `content` would be.

    Raises:
        BadEvent: as for an event, without ids.
    """
    return event_json.content(event_json.read_object(value, max_bytes), where="")


def _item(fields: Fields, key: bytes | None, now_us: int) -> ItemEvent:
    _check_schema(fields)
    event_id = event_json.event_id(event_json.required(fields, "event_id"))
    deleted = _deletes(event_json.required(fields, "op"))
    item_id = event_json.entity_id(event_json.required(fields, "item_id"), "item_id")
    _check_key(key, item_id, "item_id")
    version = event_json.int64(event_json.required(fields, "source_version"), "source_version")
    event_us = event_json.micros(event_json.required(fields, "event_timestamp"), "event_timestamp")
    event_json.check_not_ahead(event_us, now_us, "event_timestamp")
    if deleted:
        return ItemEvent(event_id, item_id, version, event_us, True)
    given = fields.get("content")
    reference = event_json.text(fields, "content_ref", event_json.MAX_PATH_CHARS, "", least=1)
    if (given is None) == (reference is None):
        reason = EventReason.MISSING_FIELD if given is None else EventReason.WRONG_TYPE
        raise BadEvent(reason, f"content: expected content or content_ref, got {'neither' if given is None else 'both'}")
    content = None if given is None else event_json.content(given)
    return ItemEvent(event_id, item_id, version, event_us, False, content, reference)


def _tombstone(key: bytes | None, headers: Headers, timestamp_ms: int, now_us: int) -> ItemEvent:
    try:
        item_id = event_json.entity_id(None if key is None else key.decode("ascii"), "key")
    except UnicodeDecodeError:
        raise BadEvent(EventReason.INVALID_ID, "key: expected the item id, got bytes that are no ASCII text") from None
    try:
        version = _header_version(headers)
        if timestamp_ms < 0:
            raise BadEvent(EventReason.MISSING_FIELD, "timestamp: expected a Kafka timestamp on a tombstone, got none")
        event_us = timestamp_ms * 1_000
        event_json.check_not_ahead(event_us, now_us, "timestamp")
    except BadEvent as error:
        raise BadEvent(error.reason, error.detail, entity_id=item_id) from None
    return ItemEvent("", item_id, version, event_us, True)


def _header_version(headers: Headers) -> int | None:
    found = [value for name, value in headers if name == HEADER_SOURCE_VERSION]
    if not found:
        return None
    if len(found) > 1:
        raise BadEvent(EventReason.DUPLICATE_KEY, f"header {HEADER_SOURCE_VERSION}: expected it once, got it {len(found)} times")
    value = found[0]
    if value is None or _DIGITS.fullmatch(value) is None:
        got = "null" if value is None else f"{len(value):,} other bytes"
        raise BadEvent(EventReason.WRONG_TYPE, f"header {HEADER_SOURCE_VERSION}: expected ASCII digits, got {got}")
    return event_json.int64(int(value), f"header {HEADER_SOURCE_VERSION}")


def _check_schema(fields: Fields) -> None:
    version = event_json.int64(event_json.required(fields, "schema_version"), "schema_version")
    if version != SCHEMA_VERSION:
        raise BadEvent(
            EventReason.UNKNOWN_SCHEMA,
            f"schema_version: expected {SCHEMA_VERSION}, got {version}; upgrade, then replay",
        )


def _deletes(op: object) -> bool:
    if isinstance(op, str) and op in _WRITES:
        return False
    if isinstance(op, str) and op in _DELETES:
        return True
    expected = "create, update, delete, c, u, r or d"
    raise BadEvent(EventReason.WRONG_TYPE, f"op: expected {expected}, got {event_json.shown(op)}")


def _check_key(key: bytes | None, entity: str, name: str) -> None:
    if key is not None and key != entity.encode("ascii"):
        raise BadEvent(EventReason.KEY_MISMATCH, f"key: expected null or the {name}, got {len(key):,} other bytes")


def _named(error: BadEvent, fields: Fields, name: str) -> BadEvent:
    """`error` with the ids that can be read, so that a dead letter can be found again."""
    try:
        event_id: str | None = event_json.event_id(fields.get("event_id"))
    except BadEvent:
        event_id = None
    entity = fields.get(name)
    return BadEvent(error.reason, error.detail, event_id=event_id, entity_id=entity if is_id(entity) else None)
