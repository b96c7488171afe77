"""One worker: opens the stores and answers until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import Final

import uvicorn

from moontide.errors import Misconfigured, MoontideError
from moontide.native import CHOSEN
from moontide.settings import Settings
from moontide.stores.kv import wall_clock
from serving.client import RankingClient
from serving.exposure import require_safe, tokens_of
from serving.http.app import Parts, Site
from serving.http.console import OPEN_PAGES, Console
from serving.http.metrics import Metrics
from serving.http.protocol import guarded
from serving.http.readiness import Check
from serving.http.tables import TableMetrics, open_tables, table_checks
from serving.http.tls import TimedConfig
from serving.prefetch import PrefetchCache
from serving.prefetch_folder import PrefetchFolder
from serving.request_log import RequestLog
from serving.shared_memory import shared_folder
from serving.similar import SharedIndex
from serving.site_files import SiteFiles
from serving.table import VectorTables
from serving.table_process import table_spaces

#: The event loop and the thread that reads take turns; Python's 5 ms until one must give way are longer than a request.
_SWITCH_SECONDS: Final = 0.0005
#: Connections that wait while all workers are busy or being replaced.
_BACKLOG: Final = 1_024
_log = logging.getLogger(__name__)


def serve(files: SiteFiles, listening: socket.socket, metrics: Path | None) -> None:
    """Answer on `listening` until SIGTERM or SIGINT, then end what runs, write what waits for the log, and close the stores.

    Args:
        files: the site.
        listening: a bound socket, which workers share; the first that can answer listens.
        metrics: see `Metrics`.

    Raises:
        Misconfigured: as `SiteFiles.open`, settings and files as `serving.exposure.require_safe`, or another server has the port.
        Transient: the store does not answer.
    """
    # Its files may have changed since the parent looked at them.
    require_safe(files.settings)
    sys.setswitchinterval(_SWITCH_SECONDS)
    # uvicorn listens to signals only while it runs, and raises them once more at its end, when the stores are still to be closed.
    told = _Told()
    with contextlib.ExitStack() as stack:
        log = _request_log(files.settings, stack)
        parts = _open(files, metrics, log, stack)
        console = Console(parts.client, parts.live, files.settings)
        stack.callback(console.close)
        site = Site(parts, console.router(), OPEN_PAGES)
        stack.callback(site.close)
        if log is not None:
            # First of all at the end: a read that hangs may keep the rest of it until the parent kills this process.
            stack.callback(log.flush)
        _warm_up(parts.client)
        told.run(uvicorn.Server(_config(site, files.settings, lambda: told.ends)), listening)


class _Told:
    """Whether this process was told to end, from now on. Before it answers, that ends it at once."""

    def __init__(self) -> None:
        self._told = False
        self._server: uvicorn.Server | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)

    @property
    def ends(self) -> bool:
        """Whether it was; while uvicorn runs, that alone is told."""
        return self._told or (self._server is not None and self._server.should_exit)

    def run(self, server: uvicorn.Server, listening: socket.socket) -> None:
        """Let `server` answer until then."""
        self._server = server
        if not self._told:
            _listen(listening)
            server.run([listening])

    def _end(self, *_: object) -> None:
        told, self._told = self._told, True
        if self._server is not None:
            self._server.should_exit = True
        elif not told:
            sys.exit(0)


def _listen(bound: socket.socket) -> None:
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        # Two may be bound to one port for as long as neither listens.
        raise Misconfigured(
            f"expected a free port to listen on, got {bound.getsockname()[1]}: {error.strerror}; another server was faster"
        ) from error


def _request_log(settings: Settings, stack: contextlib.ExitStack) -> RequestLog | None:
    """The log of requests, if there is one, closed by `stack`."""
    if settings.serving_log_folder is None:
        return None
    log = RequestLog(settings.serving_log_folder, rate=settings.serving_log_rate, random=SystemRandom(), clock=wall_clock)
    stack.callback(log.close)
    return log


def _open(files: SiteFiles, folder: Path | None, log: RequestLog | None, stack: contextlib.ExitStack) -> Parts:
    """Everything else that a worker holds open, closed by `stack` in reverse order."""
    settings = files.settings
    store, live = files.open()
    # Only now: a worker that is started again and again because a store does not answer would leave a file each time.
    metrics = Metrics(folder)
    if log is not None:
        metrics.watch_lost(lambda: log.lost)
    tables: VectorTables | None = None
    checks: dict[str, Check] = {}
    if settings.serving_table == "on":
        tables, spaces = open_tables(settings, store), table_spaces(live)
        checks = table_checks(tables, spaces)
        metrics.watch(TableMetrics(metrics, tables, spaces))
    client = stack.enter_context(RankingClient(store, live, log=log, vectors=tables, prefetched=_prefetched(settings)))
    client.use_index(SharedIndex(settings))
    metrics.kernel(CHOSEN.name)
    tokens = tokens_of(settings)
    return Parts(client, live, settings, tokens, metrics, checks, local=not tokens.needed())


def _prefetched(settings: Settings) -> PrefetchCache:
    """Where several workers answer, the one that prefetched need not be the one that is asked."""
    folder = PrefetchFolder(shared_folder(settings, "prefetch")) if settings.serving_workers > 1 else None
    return PrefetchCache(time.monotonic, folder=folder)


def _warm_up(client: RankingClient) -> None:
    try:
        client.warm_up()
    except MoontideError as error:
        _log.warning("the first requests will be slower: %s", error)


def _config(site: Site, settings: Settings, ending: Callable[[], bool]) -> TimedConfig:
    seconds, most = settings.serving_body_seconds, settings.serving_max_connections
    protocol = guarded(header_seconds=seconds, most_connections=most, ending=ending)
    config = TimedConfig(
        site.app,
        http=protocol,
        ws="none",
        lifespan="off",
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.serving_drain_seconds)),
        ssl_certfile=settings.serving_tls_cert,
        ssl_keyfile=settings.serving_tls_key and str(settings.serving_tls_key),
    )
    config.tls_seconds = settings.serving_body_seconds
    return config
