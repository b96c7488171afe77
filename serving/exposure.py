"""Where a server may listen: off loopback only with tokens, and with TLS or on somebody's word that something in front has it."""

from __future__ import annotations

import ipaddress
import ssl

from moontide.errors import Misconfigured
from moontide.settings import Settings
from serving.http.tokens import Tokens


def require_safe(settings: Settings) -> None:
    """Check tokens, certificate and host against each other.

    Raises:
        Misconfigured: a host off loopback without tokens, or without TLS and ``serving_plaintext``; half a certificate, one that
            cannot be read, or tokens that cannot be.
    """
    tokens = tokens_of(settings)
    _require_certificate(settings)
    host = settings.serving_host
    if is_loopback(host):
        return
    if not tokens.needed():
        raise Misconfigured(
            f"host: expected a loopback address without tokens, got {host}; "
            "set MOONTIDE_SERVING_TOKENS or MOONTIDE_SERVING_TOKEN_FILE"
        )
    if settings.serving_tls_cert is None and not settings.serving_plaintext:
        raise Misconfigured(
            f"host: expected a loopback address without TLS, got {host}; set MOONTIDE_SERVING_TLS_CERT and "
            "MOONTIDE_SERVING_TLS_KEY, "
            "or MOONTIDE_SERVING_PLAINTEXT=true where something in front of the server speaks TLS"
        )


def tokens_of(settings: Settings) -> Tokens:
    """The tokens the settings name.

    Raises:
        Misconfigured: as `Tokens`.
    """
    return Tokens(settings.serving_tokens.get_secret_value(), settings.serving_token_file)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_certificate(settings: Settings) -> None:
    cert, key = settings.serving_tls_cert, settings.serving_tls_key
    if (cert is None) != (key is None):
        raise Misconfigured("TLS: expected MOONTIDE_SERVING_TLS_CERT and MOONTIDE_SERVING_TLS_KEY, got one of them")
    if cert is None or key is None:
        return
    try:
        # A passphrase is never asked for: nobody sits there.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"TLS: expected a PEM certificate and its key without a passphrase in {cert} and {key}, got {type(error).__name__}"
        ) from None
