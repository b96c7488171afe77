"""The app: pages over one `RankingClient`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException

from moontide.errors import MoontideError
from moontide.live import LiveSpaces
from moontide.settings import Settings
from serving.client import RankingClient
from serving.http import openapi
from serving.http.direct import Direct, Page
from serving.http.edge import OPEN, Edge
from serving.http.gate import Gate
from serving.http.local import LocalNames
from serving.http.metrics import Metrics
from serving.http.pages import Pages
from serving.http.problems import Problem, answer_error, answer_http, answer_problem
from serving.http.readiness import Check, Readiness, store_checks
from serving.http.tokens import Tokens


@dataclass(frozen=True)
class Parts:
    """What the pages of one worker share; the caller closes it all, after `Site.close`.

    Attributes:
        client: what is asked.
        live: the spaces and services it serves.
        settings: limits; `Settings.serving_*`.
        tokens: who may ask.
        metrics: what is counted.
        checks: what ``/readyz`` asks besides the stores, by name.
        local: whether only requests that name this machine as ``Host`` are answered.
    """

    client: RankingClient
    live: LiveSpaces
    settings: Settings = field(default_factory=Settings)
    tokens: Tokens = field(default_factory=Tokens)
    metrics: Metrics = field(default_factory=Metrics)
    checks: Mapping[str, Check] = field(default_factory=dict)
    local: bool = False


class Site:
    """The app of one worker and the threads behind it.

    Args:
        parts: what it serves.
        console: more pages.
        open_pages: paths among them that are answered without a token.

    Attributes:
        app: the ASGI app.
    """

    def __init__(self, parts: Parts, console: APIRouter | None = None, open_pages: frozenset[str] = frozenset()) -> None:
        limits = parts.settings
        self._gate = Gate(threads=limits.serving_threads, waiting=limits.serving_queue, seconds=limits.serving_seconds)
        self._slow = Gate(threads=1, waiting=limits.serving_queue, seconds=limits.serving_seconds)
        checks = {**store_checks(parts.client, parts.live), **parts.checks}
        self._readiness = Readiness(checks, seconds=limits.serving_seconds)
        pages = Pages(parts, self._gate, self._slow, self._readiness)
        routes = openapi.router(pages, limits, tokens=parts.tokens.needed(), local=parts.local)
        self.app = _app(parts, routes, console, open_pages, {openapi.FEATURES: pages.features, openapi.PREFETCH: pages.prefetch})

    def close(self) -> None:
        """Wait for what is being read."""
        for part in (self._gate, self._slow, self._readiness):
            part.close()


def create_app(parts: Parts) -> FastAPI:
    """The app alone, whose threads end with the process."""
    return Site(parts).app


def _app(
    parts: Parts, pages: APIRouter, console: APIRouter | None, open_pages: frozenset[str], direct: Mapping[str, Page]
) -> FastAPI:
    app = FastAPI(
        title="moontide", version=openapi.VERSION, description=openapi.TEXT, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.include_router(pages)
    if console is not None:
        app.include_router(console, include_in_schema=False)
    app.add_exception_handler(Problem, answer_problem)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(MoontideError, answer_error)
    made = app.openapi
    app.openapi = lambda: openapi.complete(made())  # type: ignore[method-assign]
    app.add_middleware(Direct, pages=direct)
    if parts.local:
        app.add_middleware(LocalNames)
    app.add_middleware(
        Edge, tokens=parts.tokens, metrics=parts.metrics, draw=lambda: uuid.uuid4().hex, open_pages=OPEN | open_pages
    )
    return app
