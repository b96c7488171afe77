"""The Flight server in a process of its own: a bulk reader takes nothing from those who wait for a request."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Final

import pyarrow as pa

from moontide.errors import Misconfigured
from moontide.settings import Settings
from serving.client import RankingClient
from serving.exposure import require_safe, tokens_of
from serving.flight import FlightServer, Limits, Sources
from serving.site_files import SiteFiles

_log: Final = logging.getLogger(__name__)


def serve_flight(files: SiteFiles) -> None:
    """Answer on ``serving_host`` and ``serving_flight_port`` until SIGTERM or SIGINT; streams that run end with "not ready".

    Requests read here are not logged: a bulk reader ranks nothing.

    Raises:
        Misconfigured: as `SiteFiles.open`, settings as `serving.exposure.require_safe`, no port, or no free one.
        Transient: the store does not answer.
    """
    require_safe(files.settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store, live = files.open()
    with RankingClient(store, live) as client:
        server = open_server(files.settings, Sources(client, store, live))
        _log.info("Arrow Flight on port %d", server.port)
        stop.wait()
        server.close()


def open_server(settings: Settings, sources: Sources) -> FlightServer:
    """The server that `settings` describe, answering already.

    Raises:
        Misconfigured: no port, no free one, or a certificate that cannot be read.
    """
    cert, key, port = settings.serving_tls_cert, settings.serving_tls_key, settings.serving_flight_port
    if port is None:
        raise Misconfigured("Arrow Flight: expected a port, got none; set MOONTIDE_SERVING_FLIGHT_PORT")
    host = f"[{settings.serving_host}]" if ":" in settings.serving_host else settings.serving_host
    try:
        tls = (cert.read_bytes(), key.read_bytes()) if cert is not None and key is not None else None
        location = f"{'grpc' if tls is None else 'grpc+tls'}://{host}:{port}"
        limits = Limits(candidates=settings.serving_max_candidates)
        return FlightServer(location, sources, limits=limits, tokens=tokens_of(settings), tls=tls)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise Misconfigured(f"Arrow Flight: expected a free port, got {host}:{port}: {said}") from error
