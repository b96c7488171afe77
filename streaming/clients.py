"""The Kafka clients, with values that are safe; kafka-python's own defaults commit by themselves and start at the end.

How they connect is `moontide.kafka.connection`, which refuses settings that are not safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.range import RangePartitionAssignor

from moontide import names
from moontide.kafka.connection import REQUEST_MS, connected, connection, is_loopback, require_safe, servers, tls_context
from moontide.settings import Settings
from streaming.client_join import JoiningConsumer
from streaming.client_produce import RecoveringProducer

__all__ = [
    "EVENT_TOPICS",
    "HEADROOM",
    "admin",
    "consumer",
    "event_bytes",
    "is_loopback",
    "message_bytes",
    "producer",
    "require_safe",
    "servers",
    "tls_context",
]

#: What key, headers and framing of a record may add to an event.
HEADROOM: Final = 64 << 10
EVENT_TOPICS: Final = (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS)

_DELIVERY_MS: Final = 60_000
#: An idle fetch blocks the partitions that are resumed meanwhile for as long.
_FETCH_WAIT_MS: Final = 100
_FETCH_BYTES: Final = 32 << 20


def event_bytes(settings: Settings) -> int:
    """Largest record of the event topics: their ``max.message.bytes``."""
    return settings.stream_event_bytes + HEADROOM


def message_bytes(settings: Settings) -> int:
    """Largest record of any topic: a dead letter, which is an event with headers of its own."""
    return event_bytes(settings) + HEADROOM


def consumer(
    settings: Settings,
    *,
    topics: Sequence[str] | None = None,
    listener: ConsumerRebalanceListener | None = None,
    **changed: Any,
) -> KafkaConsumer:
    """A consumer of `settings.stream_group` subscribed to `topics`, by default the event topics; empty subscribes to none.

    Nothing is committed but by ``commit``; a group without offsets starts at the oldest record. `changed` are settings of
    kafka-python that a caller needs otherwise. Assignment is eager: a rebalance revokes everything and assigns anew.

    Raises:
        Misconfigured: unsafe settings, refused credentials, a certificate that does not verify.
        Transient: no broker answered within 10 s.
    """
    session = settings.stream_session_ms
    config = {
        **connection(settings, "consumer"),
        "group_id": settings.stream_group,
        "group_instance_id": settings.stream_instance or None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        # Both topics have the same partitions, and range gives a member the same ones of both. Eager, because the cooperative
        # assignor of this client is young, and a revoke costs a checkpoint however much is revoked.
        "partition_assignment_strategy": (RangePartitionAssignor,),
        "max_poll_records": settings.stream_poll_records,
        "max_poll_interval_ms": settings.stream_poll_interval_ms,
        "session_timeout_ms": session,
        "heartbeat_interval_ms": min(3_000, session // 3),
        "fetch_max_wait_ms": _FETCH_WAIT_MS,
        "max_partition_fetch_bytes": message_bytes(settings),
        "fetch_max_bytes": max(_FETCH_BYTES, message_bytes(settings)),
        **changed,
    }
    made: KafkaConsumer = connected(JoiningConsumer, config)
    chosen = EVENT_TOPICS if topics is None else tuple(topics)
    if chosen:
        made.subscribe(chosen, listener=listener)
    return made


def producer(settings: Settings, **changed: Any) -> KafkaProducer:
    """A producer whose sends are acknowledged by all replicas, in order and once each. A send fails after 60 s.

    After a send has failed, the order of what follows is no longer known: it may arrive all the same, behind what came after it.

    Raises:
        Misconfigured, Transient: as `consumer`.
    """
    config = {
        **connection(settings, "producer"),
        "acks": "all",
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "linger_ms": 5,
        "max_request_size": message_bytes(settings),
        "delivery_timeout_ms": _DELIVERY_MS,
        "max_block_ms": REQUEST_MS,
        **changed,
    }
    made: KafkaProducer = connected(RecoveringProducer, config)
    return made


def admin(settings: Settings, **changed: Any) -> KafkaAdminClient:
    """A client that makes and describes topics.

    Raises:
        Misconfigured, Transient: as `consumer`.
    """
    config = {**connection(settings, "admin"), **changed}
    made: KafkaAdminClient = connected(KafkaAdminClient, config)
    return made
