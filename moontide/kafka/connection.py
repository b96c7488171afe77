"""How every Kafka client of a site connects, with values that are safe.

Credentials go to a client only as a `_Hidden`, because kafka-python logs its configuration.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from moontide.errors import Misconfigured
from moontide.kafka.errors import opened
from moontide.kafka.net import NoticingClient
from moontide.kafka.tls_probe import tls_problem
from moontide.settings import Settings

T = TypeVar("T")

_BOOTSTRAP_MS: Final = 10_000
REQUEST_MS: Final = 15_000


class _Hidden(str):
    """A string that does not show itself where a dictionary of settings is logged."""

    def __repr__(self) -> str:
        return "'...'"


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


def connection(settings: Settings, role: str) -> dict[str, Any]:
    """Configuration of a client that plays `role`, as kafka-python takes it.

    Raises:
        Misconfigured: as `require_safe`, or TLS files that cannot be read.
    """
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
        "request_timeout_ms": REQUEST_MS,
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


def connected(kind: Callable[..., T], config: dict[str, Any]) -> T:
    """The client `kind` of that configuration.

    Raises:
        Misconfigured: refused credentials, or a certificate that does not verify.
        Transient: no broker answers.
    """
    where, protocol, context = config["bootstrap_servers"], config["security_protocol"], config.get("ssl_context")
    return opened(f"connecting to {', '.join(where)}", lambda: kind(**config), lambda: tls_problem(where, protocol, context))


def _require_all_or_none(wanted: dict[str, str | None], protocol: str, *, needed: bool) -> None:
    for name, value in wanted.items():
        if needed and not value:
            raise Misconfigured(f"{name}: expected a value for {protocol}, got none; set it")
        if value and not needed:
            raise Misconfigured(f"{name}: expected nothing for {protocol}, got a value; set MOONTIDE_KAFKA_SECURITY_PROTOCOL too")
