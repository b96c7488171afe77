"""Rebalances: partitions are given up after their work is durable and committed, or without a commit where time is short.

The client calls a listener on its I/O loop, where blocking would stop the heartbeats and a synchronous commit is refused. So the
work runs in a thread of its own while the loop goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any, Final

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer

from streaming.progress import Partition

_TICK: Final = 0.02
Partitions = Collection[Partition]


class RebalanceListener(AsyncConsumerRebalanceListener):
    """Calls back with our own partitions.

    Args:
        consumer: whose listener this is.
        assigned: told of partitions this consumer was given.
        revoked: makes durable and commits what is to be given up; may block.
        lost: told of partitions another consumer has already.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        *,
        assigned: Callable[[Partitions], None],
        revoked: Callable[[Partitions], None],
        lost: Callable[[Partitions], None],
    ) -> None:
        self._consumer = consumer
        self._assigned = assigned
        self._revoked = revoked
        self._lost = lost

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Called by the client after a rebalance."""
        self._assigned(_ours(assigned))

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Called by the client before a rebalance, and on close."""
        if not revoked:
            return
        thread = threading.Thread(target=self._revoked, args=(_ours(revoked),), name="rebalance", daemon=True)
        thread.start()
        while thread.is_alive():
            # The only way to wait on the client's own loop; its documentation asks listeners to.
            await self._consumer._net.sleep(_TICK)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Called by the client when the group went on without this consumer."""
        self._lost(_ours(lost))


def _ours(partitions: Collection[Any]) -> list[Partition]:
    return [Partition(p.topic, p.partition) for p in partitions]
