"""What is sent: item and behaviour events of every kind, some poison, each with the ledger's row that says what it means."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, replace

from encoders import Item
from encoders.item import hash_content
from moontide import names
from moontide.event_write import behaviour_event_json, item_event_json, rfc3339
from moontide.events import HEADER_SOURCE_VERSION, BehaviourEvent, Content, ItemEvent
from tests.faults.stream.ledger import POISON, VALID, Sent
from tests.faults.stream.poison import POISONS

ITEMS = names.TOPIC_ITEM_EVENTS
BEHAVIOURS = names.TOPIC_BEHAVIOUR_EVENTS
_WORDS = ["red", "wool", "coat", "blue", "linen", "shirt", "long", "warm", "light", "green", "silk", "scarf", "boot", "felt"]
#: Time between two versions: one step of the log that a real source would read its versions from.
STEP_US = 1_000
SERVED = "impression"


@dataclass(frozen=True, slots=True)
class Record:
    """One record to send, and the ledger's row for it. `partition` None: the key decides."""

    row: Sent
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int | None = None
    partition: int | None = None


def sha(key, value):
    """The ledger's digest of a record, null told apart from empty; the digest of its value alone follows."""
    digest = hashlib.sha256()
    for part in (key, value):
        digest.update(b"\0" if part is None else b"\1" + len(part).to_bytes(8, "big") + part)
    return f"{digest.hexdigest()}:{hashlib.sha256(value or b'').hexdigest()}"


class Maker:
    """Makes the records of one run. Versions are positions of one log, so they rise across items, deletes and re-creations.

    Args:
        seed: decides everything.
        items, users: how many ids there are.
    """

    def __init__(self, seed, *, items=150, users=12):
        self.rng = random.Random(seed)
        self.items = [f"item{n}" for n in range(items)]
        self.users = [f"user{n}" for n in range(users)]
        self.base_us = (int(time.time()) - 3_600) * 1_000_000
        self.version = 0
        self._sends = 0
        self._content = {}
        self._recent = []

    def update(self, item=None, *, same=False, version=None, event_us=None, content=None, partition=None):
        """A create or update; `same` keeps the content of the last one under a new version."""
        item = item or self.rng.choice(self.items)
        version, event_us = self._moment(version, event_us)
        if content is None:
            content = self._content.get(item) if same else None
        content = content or self._new_content(item, version)
        self._content[item] = content
        event = ItemEvent(self._event_id(), item, version, event_us, False, content)
        return self._noted(self._item_record(event, item_event_json(event), partition=partition))

    def poisoned(self, item, content, *, partition=None):
        """An update whose content no encoder can take; nobody sends it again."""
        record = self.update(item, content=content, partition=partition)
        self.forget()
        return replace(record, row=replace(record.row, kind=POISON))

    def forget(self):
        """Let nothing that was made so far be sent again."""
        self._recent.clear()

    def delete(self, item=None, *, version=None, event_us=None, style=None, partition=None):
        """A delete: ``op: delete``, Debezium's ``op: d``, or a tombstone with its version in the headers."""
        item = item or self.rng.choice(self.items)
        version, event_us = self._moment(version, event_us)
        style = style or self.rng.choice(["delete", "d", "tombstone"])
        event = ItemEvent(self._event_id(), item, version, event_us, True)
        if style == "tombstone":
            return self._noted(self.tombstone(item, version, event_us, partition=partition))
        value = item_event_json(event)
        if style == "d":
            value = value.replace(b'"op":"delete"', b'"op":"d"')
        return self._noted(self._item_record(event, value, partition=partition))

    def tombstone(self, item, version, event_us, *, partition=None):
        """A null value. Without a version it deletes what is older than its Kafka timestamp (milliseconds)."""
        event_us = event_us // 1_000 * 1_000
        headers = () if version is None else ((HEADER_SOURCE_VERSION, str(version).encode()),)
        event = ItemEvent("", item, version, event_us, True)
        return self._item_record(event, None, headers=headers, timestamp_ms=event_us // 1_000, partition=partition)

    def behaviour(self, user=None, item=None, action=None, event_us=None):
        """A behaviour, now and then one that only says that an item was shown."""
        _, event_us = self._moment(None, event_us)
        user, item = user or self.rng.choice(self.users), item or self.rng.choice(self.items)
        action = action or self.rng.choices(["click", "purchase", SERVED], [6, 2, 2])[0]
        event = BehaviourEvent(self._event_id(), user, item, action, event_us)
        value, key = behaviour_event_json(event), user.encode()
        row = Sent(
            self._send(),
            event.event_id,
            BEHAVIOURS,
            user,
            None,
            event_us,
            "behaviour",
            "",
            None,
            item,
            action,
            sha(key, value),
            VALID,
        )
        return self._noted(Record(row, key, value))

    def poison(self, topic=ITEMS):
        """A record that can never be applied; one of ten kinds."""
        item = self.rng.choice(self.items)
        _, event_us = self._moment(None, None)
        event_id = self._event_id()
        good = {
            "schema_version": 1,
            "event_id": event_id,
            "op": "update",
            "item_id": item,
            "source_version": self.version,
            "event_timestamp": rfc3339(event_us),
            "content": {"title": "poison"},
        }
        if topic == BEHAVIOURS:
            good |= {"user_id": self.users[0], "action": "click"}
        return self.raw(self.rng.choice(POISONS)(dict(good), self.rng), key=None, topic=topic, event_id=event_id)

    def raw(self, value, *, key=None, topic=ITEMS, event_id="", headers=()):
        """Any bytes, noted as poison."""
        row = Sent(self._send(), event_id, topic, "", None, 0, "update", "", None, "", "", sha(key, value), POISON)
        return Record(row, key, value, headers)

    def again(self, record):
        """The same bytes once more: another send of the same event."""
        return replace(record, row=replace(record.row, send=self._send()))

    def mixed(self, count, *, poison=0.01, behaviours=0.12):
        """`count` records as a catalog and its visitors would make them, with replays, reorders and some poison."""
        made = []
        while len(made) < count:
            draw = self.rng.random()
            if draw < poison:
                made.append(self.poison(self.rng.choice([ITEMS, ITEMS, BEHAVIOURS])))
            elif draw < poison + behaviours:
                made.append(self.behaviour())
            else:
                made.append(self._item_step())
        return made

    def creates(self):
        """One create for each item."""
        return [self.update(item) for item in self.items]

    def _item_step(self):
        kind = self.rng.choices(["new", "same", "delete", "again", "late"], [52, 22, 6, 12, 8])[0]
        if kind == "again" and self._recent:
            return self.again(self.rng.choice(self._recent))
        if kind == "late" and self.version > 50:
            # An event of the past that comes only now: above or below what its item has, the order decides.
            at = self.rng.randrange(1, self.version)
            return self.update(version=at * 10 + 5, event_us=self.base_us + at * STEP_US + 1 + self._sends % (STEP_US - 2))
        if kind == "delete":
            return self.delete()
        return self.update(same=kind == "same")

    def _moment(self, version, event_us):
        self.version += 1
        return (
            self.version * 10 if version is None else version,
            self.base_us + self.version * STEP_US if event_us is None else event_us,
        )

    def _new_content(self, item, version):
        words = " ".join(self.rng.choices(_WORDS, k=4))
        return Content(
            f"{item} at {version} {words}", category=self.rng.choice(_WORDS), price=float(self.rng.randrange(1, 1_000))
        )

    def _item_record(self, event, value, *, headers=(), timestamp_ms=None, partition=None):
        key, content = event.item_id.encode(), event.content
        row = Sent(
            self._send(),
            event.event_id,
            ITEMS,
            event.item_id,
            event.source_version,
            event.event_us,
            "delete" if event.deleted else "update",
            "" if content is None else content_hash(content),
            None if content is None else content.price,
            "",
            "",
            sha(key, value),
            VALID,
        )
        return Record(row, key, value, headers, timestamp_ms, partition)

    def _noted(self, record):
        self._recent.append(record)
        del self._recent[:-400]
        return record

    def _event_id(self):
        return f"e{self.rng.getrandbits(48):012x}"

    def _send(self):
        self._sends += 1
        return f"s{self._sends:07d}"


def content_hash(content):
    """The hash the encoder makes of an event's content; an image is its bytes."""
    image = content.image.encode() if isinstance(content.image, str) else content.image
    return hash_content(Item("any", content.title, content.description, content.attributes, image), image)
