"""A server without tokens answers this machine alone, also where a browser on it was led here by another name."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.exposure import is_loopback
from serving.http.problems import Problem

_HOST: Final = re.compile(rb"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]{0,5})?")


class LocalNames:
    """Refuses requests whose ``Host`` is no loopback name or address: a page of another site may let its own name point here.

    Args:
        app: what it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        app = self._app
        if scope["type"] == "http" and not all(is_local(value) for name, value in scope["headers"] if name == b"host"):
            detail = "Host: expected localhost or a loopback address, got another; a server with tokens answers to any name"
            app = Problem("misdirected", detail).response()
        await app(scope, receive, send)


def is_local(host: bytes) -> bool:
    """Whether the value of a ``Host`` header names this machine as nobody else can."""
    found = _HOST.fullmatch(host.strip().lower())
    return found is not None and is_loopback((found[1] or found[2]).decode())
