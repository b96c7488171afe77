"""A consumer that joins its group once, and to the end, however short its polls are."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError


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
        return super().poll(*args, **kwargs)
