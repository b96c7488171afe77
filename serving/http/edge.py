"""What every request passes first and every answer last: its id, its token, its time, its headers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.metrics import Metrics
from serving.http.problems import Problem
from serving.http.tokens import Tokens

REQUEST_ID: Final = b"x-request-id"
#: Of every answer. What is served holds features of users: no cache keeps it, no page frames it.
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
)
_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
#: Answered without a token: probes, and the document that says how to ask.
OPEN: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})
_log = logging.getLogger(__name__)


class Edge:
    """Wraps the whole app.

    Args:
        app: what it wraps.
        tokens: who may ask.
        metrics: takes the time and status of every request.
        draw: a fresh request id, for a caller that gave none.
        open_pages: paths that are answered without a token.
    """

    def __init__(
        self, app: ASGIApp, tokens: Tokens, metrics: Metrics, draw: Callable[[], str], open_pages: frozenset[str] = OPEN
    ) -> None:
        self._app, self._tokens, self._metrics, self._draw, self._open = app, tokens, metrics, draw, open_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        headers = dict(scope["headers"])
        said = headers.get(REQUEST_ID, b"")
        given = _ID.fullmatch(said) is not None
        request_id = said if given else self._draw().encode()
        scope["request_id"], scope["request_id_given"] = request_id.decode(), given

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                more = [pair for pair in _HEADERS if pair[0] not in given]
                message["headers"] = [*message["headers"], *more, (REQUEST_ID, request_id)]
            await send(message)

        try:
            if self._tokens.needed() and scope["path"] not in self._open and not self._tokens(headers.get(b"authorization")):
                problem = Problem("no-token", "Authorization: expected Bearer and a valid token", headers=_BEARER)
                await problem.response()(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499
        except asyncio.CancelledError:
            # The server ends, and waits for this one no longer.
            if status == 0:
                await Problem("not-ready", "the server ends; ask again, or another one").response()(scope, receive, sending)
        except Exception:  # noqa: BLE001 - the edge: a caller gets an id, the log the traceback
            _log.exception("request %s failed", scope["request_id"])
            if status == 0:
                await _failed(scope["request_id"]).response(request_id=scope["request_id"])(scope, receive, sending)
        finally:
            self._metrics.answered(scope["path"], status, time.perf_counter() - begun)
            _log.debug("%s %s %d", scope["method"], _shown(scope["path"]), status, extra={"request_id": scope["request_id"]})


_BEARER: Final = {"WWW-Authenticate": "Bearer"}


def _failed(request_id: str) -> Problem:
    return Problem("internal", f"the server failed; its log says why under the request id {request_id}")


def _shown(path: str) -> str:
    return ascii(path[:80])
