"""One worker: opens the stores and answers until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path
from random import SystemRandom

import uvicorn

from moontide.settings import Settings
from moontide.stores.kv import wall_clock
from serving.client import RankingClient
from serving.http.app import Parts, create_app
from serving.http.metrics import Metrics
from serving.http.tokens import Tokens
from serving.repository import open_repo
from serving.request_log import RequestLog


def serve(settings: Settings, repo: Path, listening: socket.socket, folder: Path | None) -> None:
    """Answer on `listening` until SIGTERM or SIGINT, then end what runs and close the stores.

    Raises:
        Misconfigured: as `RankingClient.from_repo`.
    """
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)  # uvicorn raises them again at its end, when the stores are still to be closed
    with contextlib.ExitStack() as stack:
        log = None
        if settings.serving_log_folder is not None:
            log = RequestLog(settings.serving_log_folder, rate=settings.serving_log_rate, random=SystemRandom(), clock=wall_clock)
            stack.callback(log.close)
        store, live = open_repo(repo)
        client = stack.enter_context(RankingClient(store, live, log=log))
        tokens = Tokens(settings.serving_tokens.get_secret_value(), settings.serving_token_file)
        app = create_app(Parts(client, live, settings, tokens, Metrics(folder)))
        stack.callback(app.state.gate.close)
        uvicorn.Server(_config(app, settings)).run([listening])


def _config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(settings.serving_drain_seconds),
        limit_concurrency=settings.serving_max_connections,
    )
