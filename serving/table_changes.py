"""The change stream ``item-embeddings`` as a source of records for vector tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from moontide import names
from moontide.changes import Changes, split_key, unpack_changes
from moontide.errors import Poison
from moontide.kafka.connection import connected, connection
from moontide.kafka.errors import translated
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace

_log = logging.getLogger(__name__)

_RECORDS: Final = 5_000
_FETCH_WAIT_MS: Final = 100
#: The tables are loaded after it, broker or not.
_BOOTSTRAP_MS: Final = 3_000


class Record(NamedTuple):
    """One record of the stream, as it came."""

    key: bytes | None
    value: bytes | None


class ChangeSource:
    """All partitions of the change stream, from where it ended when this was made. Used by one thread; commits nothing.

    Args:
        settings: how to connect.
        topic: the compacted topic.

    Raises:
        Misconfigured: unsafe settings, refused credentials, or no such topic.
        Transient: no broker answers.
    """

    def __init__(self, settings: Settings, *, topic: str = names.TOPIC_ITEM_EMBEDDINGS) -> None:
        config = {
            **connection(settings, "table"),
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "max_poll_records": _RECORDS,
            "fetch_max_wait_ms": _FETCH_WAIT_MS,
            "bootstrap_timeout_ms": _BOOTSTRAP_MS,
        }
        self._topic = topic
        self._consumer: Any = connected(KafkaConsumer, config)
        self._known: list[TopicPartition] = []
        try:
            self.find_partitions()
        except BaseException:
            self._consumer.close()
            raise

    def find_partitions(self) -> None:
        """Take up partitions that the topic has got meanwhile, from their ends; load the tables after it.

        Raises:
            Transient: the topic is not there (yet), or the broker does not answer.
            Misconfigured: access is refused.
        """
        with _reading():
            found = self._consumer.partitions_for_topic(self._topic) or set()
            if not found:
                raise KafkaError(f"no topic {self._topic}")
            fresh = sorted({TopicPartition(self._topic, number) for number in found} - set(self._known))
            if fresh:
                ends = self._consumer.end_offsets(fresh)
                self._consumer.assign([*self._known, *fresh])
                for partition in fresh:
                    self._consumer.seek(partition, ends[partition])
                self._known += fresh

    def poll(self, seconds: float) -> list[Record]:
        """What has arrived; waits at most `seconds`. An empty list says nothing about the broker: ask for `lag`.

        Raises:
            Transient, Misconfigured: as `find_partitions`.
        """
        with _reading():
            polled = self._consumer.poll(timeout_ms=int(seconds * 1_000))
        return [Record(record.key, record.value) for records in polled.values() for record in records]

    def lag(self) -> int:
        """Records that are still to be polled, as the broker says now.

        Raises:
            Transient, Misconfigured: as `find_partitions`.
        """
        with _reading():
            ends = self._consumer.end_offsets(self._known)
            return sum(max(ends[partition] - self._consumer.position(partition), 0) for partition in self._known)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def changes_of(space: EmbeddingSpace, records: Sequence[Record]) -> tuple[Changes | None, int]:
    """The records of one space, and how many could not be read; those are left out and logged without their values.

    Records of other spaces and Kafka's own tombstones (no value) are passed over.
    """
    ids, values, bad = [], [], 0
    for record in records:
        try:
            space_id, item_id = split_key(record.key)
        except Poison as error:
            _log.warning("%s", error)
            bad += 1
            continue
        if space_id == space.id and record.value is not None:
            ids.append(item_id)
            values.append(record.value)
    try:
        return (unpack_changes(space, ids, values) if ids else None), bad
    except Poison:
        pass
    good = [n for n in range(len(ids)) if _readable(space, ids[n], values[n])]
    found = unpack_changes(space, [ids[n] for n in good], [values[n] for n in good]) if good else None
    return found, bad + len(ids) - len(good)


def _readable(space: EmbeddingSpace, item_id: str, value: bytes) -> bool:
    try:
        unpack_changes(space, [item_id], [value])
    except Poison as error:
        _log.warning("%s", error)
        return False
    return True


@contextmanager
def _reading() -> Iterator[None]:
    with translated("reading the change stream"):
        yield
