"""A consumer that joins its group once, and to the end, however short its polls are."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

_log = logging.getLogger(__name__)


class JoiningConsumer(KafkaConsumer):
    """kafka-python's consumer, which a poll that ends between two steps of a join cannot leave without partitions.

    kafka-python 3.0.12 joins anew when it learns of topics or partitions, and forgets that wish as soon as it has made the
    assignment: a poll that ends before the answer would leave a member without partitions and heartbeats that asks for nothing.
    """

    def subscribe(self, *args: Any, **kwargs: Any) -> None:
        """As the parent; and it knows the topics then, or every member would join, and give up what it has, twice."""
        super().subscribe(*args, **kwargs)
        with suppress(KafkaError):
            self.topics()

    def poll(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent."""
        coordinator = self._coordinator
        if coordinator.rejoining:
            coordinator.request_rejoin()
        try:
            return super().poll(*args, **kwargs)
        except KafkaError:
            self._drop_unreadable()
            raise

    def _drop_unreadable(self) -> None:
        """Forget a fetch that cannot be decoded; its partition is fetched again and the others go on.

        kafka-python 3.0.12 keeps it, and asks it for its next record for ever within the next poll.
        """
        fetcher = self._fetcher
        part = fetcher._next_partition_records
        if part:
            tp = part.topic_partition
            _log.error(
                "%s[%d]@%d: expected records that can be read, got one behind it that cannot; commit an offset beyond it for the "
                "group, see docs/guarantees.md",
                tp.topic,
                tp.partition,
                part.next_fetch_offset,
            )
            part.drain()
            fetcher._next_partition_records = None
