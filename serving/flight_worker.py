"""The Flight server in a process of its own: a bulk reader takes nothing from those who wait for a request."""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import pyarrow as pa

from moontide.errors import Misconfigured
from moontide.settings import Settings
from serving.client import RankingClient
from serving.exposure import require_safe, tokens_of
from serving.flight import FlightServer, Limits, Sources
from serving.site_files import SiteFiles

#: Bytes that streams may take beyond what the process has when it begins to answer; mapped stores do not count.
MEMORY_ROOM: Final = 512 << 20
_STATUS: Final = Path("/proc/self/status")
_log: Final = logging.getLogger(__name__)


def serve_flight(files: SiteFiles, *, room: int = MEMORY_ROOM) -> None:
    """Answer on ``serving_host`` and ``serving_flight_port`` until SIGTERM or SIGINT; streams that run end with "not ready".

    Requests read here are not logged: a bulk reader ranks nothing. Memory is capped: a batch is decompressed before anything can
    look at its size, and one beyond the cap ends this process, which its supervisor starts again. Streams that have not
    ended after ``serving_drain_seconds``, as idle ones never do, end with the process.

    Args:
        files: the site.
        room: as `cap_memory`.

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
        cap_memory(room)
        _log.info("Arrow Flight on port %d", server.port)
        while not stop.wait(1.0):
            if server.worn_out:
                _log.error("Arrow Flight: idle streams hold every thread; the process ends for a new one")
                break
        if not _closed(server, files.settings.serving_drain_seconds):
            _log.warning("Arrow Flight: streams that did not end are cut off")
            logging.shutdown()
            sys.stderr.flush()
            # Threads that wait for a caller cannot be joined, and everything here is only read.
            os._exit(0)


def cap_memory(room: int) -> None:
    """Let this process have `room` bytes of private memory more than now; where the kernel does not say how much, no cap.

    What is reserved and not used yet counts as had: by Arrow's allocator, some 1 GiB.
    """
    found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE) if _STATUS.exists() else None
    if found is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = (int(found[1]) << 10) + room
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _closed(server: FlightServer, seconds: float) -> bool:
    closing = threading.Thread(target=server.close, name="close", daemon=True)
    closing.start()
    closing.join(seconds)
    return not closing.is_alive()


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
