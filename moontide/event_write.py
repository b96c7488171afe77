"""Events as the bytes that `moontide.events` reads: for tools that produce them."""

from __future__ import annotations

import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from moontide.event_types import SCHEMA_VERSION, BehaviourEvent, Content, ItemEvent

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def item_event_json(event: ItemEvent) -> bytes:
    """`event` as `parse_item` reads it; the op of a write is ``update``.

    Raises:
        ValueError: a tombstone (no version or no event id), which has no JSON.
    """
    if event.source_version is None or not event.event_id:
        raise ValueError(f"item_event_json: expected an event with id and version, got a tombstone of {event.item_id}; send null")
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "event_id": event.event_id,
        "op": "delete" if event.deleted else "update",
        "item_id": event.item_id,
        "source_version": event.source_version,
        "event_timestamp": rfc3339(event.event_us),
    }
    if event.content is not None:
        fields["content"] = _content_fields(event.content)
    if event.content_ref is not None:
        fields["content_ref"] = event.content_ref
    return _dumped(fields)


def behaviour_event_json(event: BehaviourEvent) -> bytes:
    """`event` as `parse_behaviour` reads it."""
    return _dumped(
        {
            "schema_version": SCHEMA_VERSION,
            "event_id": event.event_id,
            "user_id": event.user_id,
            "item_id": event.item_id,
            "action": event.action,
            "event_timestamp": rfc3339(event.event_us),
        }
    )


def rfc3339(us: int) -> str:
    """Microseconds UTC as ``2026-01-31T12:00:00.500000Z``."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _content_fields(content: Content) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "title": content.title,
        "description": content.description,
        "attributes": content.attributes,
        "category": content.category,
        "price": content.price,
    }
    if isinstance(content.image, bytes):
        fields["image_base64"] = binascii.b2a_base64(content.image, newline=False).decode("ascii")
    else:
        fields["image"] = content.image
    return {name: value for name, value in fields.items() if value is not None}


def _dumped(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
