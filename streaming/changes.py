"""Sends current records to the compacted topic ``item-embeddings``."""

from __future__ import annotations

import pyarrow as pa

from moontide.changes import change_key, pack_changes
from moontide.names import TOPIC_ITEM_EMBEDDINGS
from moontide.spaces import EmbeddingSpace
from streaming.message import Point, Trace, no_trace
from streaming.outbox import WAIT_SECONDS, Outbox, Outgoing, Producer


class ChangeStream:
    """The change stream of all spaces. Used by one thread.

    Of several unacknowledged records of one item only the last is kept: one that is sent again never follows a newer one.

    Args:
        producer: idempotent, acks=all.
        trace: called at `Point.CHANGES_SENT` after each `publish`.
        topic: the compacted topic.
    """

    def __init__(self, producer: Producer, trace: Trace = no_trace, *, topic: str = TOPIC_ITEM_EMBEDDINGS) -> None:
        self._outbox = Outbox(producer, topic)
        self._trace = trace
        self._topic = topic

    def publish(self, space: EmbeddingSpace, rows: pa.Table) -> None:
        """Send B rows of `schemas.ITEM_EMBEDDING`, tombstones included; known to have arrived after `wait`.

        Raises:
            ValueError: rows of another dim.
            Misconfigured: the broker refuses this client.
        """
        for item_id, value in zip(rows.column("item_id").to_pylist(), pack_changes(space, rows), strict=True):
            key = change_key(space, item_id)
            self._outbox.put(key, Outgoing(self._topic, key, value))
        self._trace(Point.CHANGES_SENT)

    def wait(self, timeout: float = WAIT_SECONDS) -> None:
        """Until all that was published is acknowledged by all in-sync replicas.

        Raises:
            Transient: not all is; call again, which sends again what failed.
            Misconfigured: the broker refuses this client.
        """
        self._outbox.wait(timeout)
