"""Why a TLS connection to a broker fails: kafka-python only logs that, and goes on trying."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Final

_SECONDS: Final = 3.0


def tls_problem(servers: Sequence[str], protocol: str, context: ssl.SSLContext | None) -> str | None:
    """What a TLS handshake with the first of `servers` (``host:port``) that accepts a connection says.

    `context` is the one that `protocol` uses; None where it uses none. Nothing is sent over the connection.

    Returns:
        Expected, got, what to do; None where TLS is not what is wrong.
    """
    for server in servers:
        host, _, port = server.rpartition(":")
        host = host.strip("[]")
        try:
            with socket.create_connection((host, int(port)), timeout=_SECONDS) as plain:
                return _handshake(plain, host, protocol, context)
        except OSError:
            continue
    return None


def _handshake(plain: socket.socket, host: str, protocol: str, context: ssl.SSLContext | None) -> str | None:
    try:
        # Without a context of its own: any certificate, verified or not, shows that the other side speaks TLS.
        (context or ssl.create_default_context()).wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        if context:
            return f"expected a certificate of {host} that verifies, got: {error.verify_message}; check MOONTIDE_KAFKA_CA_FILE"
    except (ssl.SSLError, OSError):
        return _other(protocol, "no TLS", "that listener's protocol, or MOONTIDE_KAFKA_SERVERS to another") if context else None
    return None if context else _other(protocol, "TLS", "SSL or SASL_SSL")


def _other(protocol: str, found: str, instead: str) -> str:
    return f"expected a broker that speaks {protocol}, got {found} there; set MOONTIDE_KAFKA_SECURITY_PROTOCOL to {instead}"
