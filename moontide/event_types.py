"""What an event is once it was checked, and the reasons for which one is poison."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from moontide.errors import Poison

SCHEMA_VERSION: Final = 1


class EventReason(StrEnum):
    """Why an event is poison. Values are stable: they label metrics and dead letters."""

    NOT_JSON = "not_json"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    UNKNOWN_SCHEMA = "unknown_schema"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_ID = "invalid_id"
    KEY_MISMATCH = "key_mismatch"
    TIME_AHEAD = "time_ahead"
    NO_CONTENT = "no_content"


class BadEvent(Poison):
    """An event that can never be applied as it is.

    Attributes:
        reason: the stable word.
        detail: for people: field, expected, got; never the payload.
        event_id: the producer's id, where it could be read.
        entity_id: the item or user, where it could be read.
    """

    def __init__(self, reason: EventReason, detail: str, *, event_id: str | None = None, entity_id: str | None = None) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.event_id = event_id
        self.entity_id = entity_id


@dataclass(frozen=True, slots=True)
class Content:
    """What an item is, whole: an update replaces all of it. `image` is the file's bytes, or a path or URI to read them from."""

    title: str | None = None
    description: str | None = None
    attributes: str | None = None
    image: bytes | str | None = None
    category: str | None = None
    price: float | None = None


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """Create, update (`deleted` false) or delete of one item.

    Attributes:
        event_id: the producer's own id; empty for a tombstone.
        item_id: the item.
        source_version: rises per item, also across delete and re-create; None only for a tombstone that has none in its headers:
            it deletes whatever is older than its Kafka timestamp.
        event_us: microseconds UTC.
        deleted: a delete, a Debezium ``op=d``, or a tombstone.
        content: None for a delete, or where `content_ref` names a JSON file that holds it.
        content_ref: path or URI of the content, read by the consumer under the loader's limits.
    """

    event_id: str
    item_id: str
    source_version: int | None
    event_us: int
    deleted: bool
    content: Content | None = None
    content_ref: str | None = None


@dataclass(frozen=True, slots=True)
class BehaviourEvent:
    """One (user, item, action, time); `event_us` is microseconds UTC."""

    event_id: str
    user_id: str
    item_id: str
    action: str
    event_us: int
