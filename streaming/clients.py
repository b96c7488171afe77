"""The Kafka clients, with values that are safe; kafka-python's own defaults commit by themselves and start at the end.

`require_safe` is called by each. Credentials go to the client only as a `_Hidden`, because kafka-python logs its configuration.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.range import RangePartitionAssignor

from moontide import names
from moontide.errors import Misconfigured
from moontide.settings import Settings
from streaming.client_errors import opened
from streaming.client_join import JoiningConsumer
from streaming.client_net import NoticingClient
from streaming.client_produce import RecoveringProducer
from streaming.tls_probe import tls_problem

T = TypeVar("T")

#: What key, headers and framing of a record may add to an event.
HEADROOM: Final = 64 << 10
EVENT_TOPICS: Final = (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS)

_BOOTSTRAP_MS: Final = 10_000
_REQUEST_MS: Final = 15_000
_DELIVERY_MS: Final = 60_000
#: An idle fetch blocks the partitions that are resumed meanwhile for as long.
_FETCH_WAIT_MS: Final = 100
_FETCH_BYTES: Final = 32 << 20


class _Hidden(str):
    """A string that does not show itself where a dictionary of settings is logged."""

    def __repr__(self) -> str:
        return "'...'"


def event_bytes(settings: Settings) -> int:
    """Largest record of the event topics: their ``max.message.bytes``."""
    return settings.stream_event_bytes + HEADROOM


def message_bytes(settings: Settings) -> int:
    """Largest record of any topic: a dead letter, which is an event with headers of its own."""
    return event_bytes(settings) + HEADROOM


def servers(settings: Settings) -> list[str]:
    """`settings.kafka_servers`, one by one.

    Raises:
        Misconfigured: none is named, or one has no port.
    """
    found = [server.strip() for server in settings.kafka_servers.split(",") if server.strip()]
    for server in found or [""]:
        host, _, port = server.rpartition(":")
        if not host or "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
            raise Misconfigured(f"MOONTIDE_KAFKA_SERVERS: expected host:port, separated by commas, got {server[:80]!r}")
    return found


def is_loopback(host: str) -> bool:
    """Whether `host` cannot be anywhere but on this machine; no name but ``localhost`` is looked up."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe(settings: Settings) -> None:
    """Refuse settings that would send events or credentials in the clear, or that contradict themselves.

    Raises:
        Misconfigured: plaintext to a host that is neither loopback nor in ``kafka_plaintext_hosts``; a SASL protocol without
            mechanism, user or password; credentials or TLS files that the protocol would not use; a key without certificate.
    """
    protocol = settings.kafka_security_protocol
    wanted = {
        "MOONTIDE_KAFKA_SASL_MECHANISM": settings.kafka_sasl_mechanism,
        "MOONTIDE_KAFKA_USERNAME": settings.kafka_username,
        "MOONTIDE_KAFKA_PASSWORD": settings.kafka_password.get_secret_value(),
    }
    _require_all_or_none(wanted, protocol, needed=protocol.startswith("SASL_"))
    if bool(settings.kafka_cert_file) != bool(settings.kafka_key_file):
        raise Misconfigured("MOONTIDE_KAFKA_CERT_FILE, _KEY_FILE: expected both or neither, got one; set the other")
    if protocol.endswith("SSL"):
        return
    if settings.kafka_ca_file or settings.kafka_cert_file:
        raise Misconfigured(
            f"MOONTIDE_KAFKA_SECURITY_PROTOCOL: expected SSL or SASL_SSL, because TLS files are set, got {protocol}; change one"
        )
    for server in servers(settings):
        host = server.rpartition(":")[0]
        if not is_loopback(host) and host not in settings.kafka_plaintext_hosts:
            raise Misconfigured(
                f"MOONTIDE_KAFKA_SECURITY_PROTOCOL: expected SSL or SASL_SSL for {host}, got {protocol}; set up TLS, or name the "
                "host in MOONTIDE_KAFKA_PLAINTEXT_HOSTS where the network between is yours"
            )


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
        **_connection(settings, "consumer"),
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
    made: KafkaConsumer = _opened(JoiningConsumer, config)
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
        **_connection(settings, "producer"),
        "acks": "all",
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "linger_ms": 5,
        "max_request_size": message_bytes(settings),
        "delivery_timeout_ms": _DELIVERY_MS,
        "max_block_ms": _REQUEST_MS,
        **changed,
    }
    made: KafkaProducer = _opened(RecoveringProducer, config)
    return made


def admin(settings: Settings, **changed: Any) -> KafkaAdminClient:
    """A client that makes and describes topics.

    Raises:
        Misconfigured, Transient: as `consumer`.
    """
    config = {**_connection(settings, "admin"), **changed}
    made: KafkaAdminClient = _opened(KafkaAdminClient, config)
    return made


def tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 or later; the server's certificate and host name are verified, always.

    Raises:
        Misconfigured: a file cannot be read or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.kafka_cert_file:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file, password="")
    except OSError as error:
        raise Misconfigured(
            "MOONTIDE_KAFKA_CA_FILE, _CERT_FILE, _KEY_FILE: expected readable PEM files, the key without a passphrase, "
            f"got {type(error).__name__} ({error.strerror}); check the files"
        ) from None
    return context


def _require_all_or_none(wanted: dict[str, str | None], protocol: str, *, needed: bool) -> None:
    for name, value in wanted.items():
        if needed and not value:
            raise Misconfigured(f"{name}: expected a value for {protocol}, got none; set it")
        if value and not needed:
            raise Misconfigured(f"{name}: expected nothing for {protocol}, got a value; set MOONTIDE_KAFKA_SECURITY_PROTOCOL too")


def _opened(kind: Callable[..., T], config: dict[str, Any]) -> T:
    where, protocol, context = config["bootstrap_servers"], config["security_protocol"], config.get("ssl_context")
    return opened(f"connecting to {', '.join(where)}", lambda: kind(**config), lambda: tls_problem(where, protocol, context))


def _connection(settings: Settings, role: str) -> dict[str, Any]:
    require_safe(settings)
    # Below INFO kafka-python logs what it sends: passwords and records.
    log = logging.getLogger("kafka")
    log.setLevel(max(log.level, logging.INFO))
    config: dict[str, Any] = {
        "kafka_client": NoticingClient,
        "bootstrap_servers": servers(settings),
        "client_id": "-".join(filter(None, ("moontide", role, settings.stream_instance))),
        "security_protocol": settings.kafka_security_protocol,
        "bootstrap_timeout_ms": _BOOTSTRAP_MS,
        "request_timeout_ms": _REQUEST_MS,
        "reconnect_backoff_max_ms": 2_000,
        "metadata_max_age_ms": 60_000,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        config["ssl_context"] = tls_context(settings)
        config["ssl_check_hostname"] = True
    if settings.kafka_security_protocol.startswith("SASL_"):
        config["sasl_mechanism"] = settings.kafka_sasl_mechanism
        config["sasl_plain_username"] = _Hidden(settings.kafka_username)
        config["sasl_plain_password"] = _Hidden(settings.kafka_password.get_secret_value())
    return config
