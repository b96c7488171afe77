"""The app: pages over one `RankingClient`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from moontide.errors import MoontideError
from moontide.live import LiveSpaces
from moontide.settings import Settings
from serving.client import RankingClient
from serving.http.edge import OPEN, Edge
from serving.http.gate import Gate
from serving.http.metrics import Metrics
from serving.http.pages import Pages
from serving.http.problems import Problem, answer_http, answer_problem, problem_of
from serving.http.tokens import Tokens


@dataclass(frozen=True)
class Parts:
    """What the pages of one worker share.

    Attributes:
        client: what is asked; the caller closes it.
        live: the spaces and services it serves.
        settings: limits; `Settings.serving_*`.
        tokens: who may ask.
        metrics: what is counted.
    """

    client: RankingClient
    live: LiveSpaces
    settings: Settings = field(default_factory=Settings)
    tokens: Tokens = field(default_factory=Tokens)
    metrics: Metrics = field(default_factory=Metrics)


def create_app(parts: Parts) -> FastAPI:
    """The app of one worker. Its `state.gate` is what reads; close it before the client."""
    settings = parts.settings
    gate = Gate(threads=settings.serving_threads, waiting=settings.serving_queue, seconds=settings.serving_seconds)
    app = FastAPI(title="moontide", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gate = gate
    app.include_router(Pages(parts.client, parts.live, settings, gate, parts.metrics).router())
    app.add_exception_handler(Problem, answer_problem)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(MoontideError, _answer_error)
    app.add_middleware(
        Edge, tokens=parts.tokens, metrics=parts.metrics, draw=lambda: uuid.uuid4().hex, is_open=lambda path: path in OPEN
    )
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, MoontideError)
    problem = problem_of(error)
    if problem is None:
        raise error
    return problem.response()
