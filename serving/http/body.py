"""A request's body, never more of it than is allowed, and never longer waited for."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from serving.http.problems import Problem

#: What is left of such a body is not worth reading: the connection ends with the answer.
_CLOSE = {"Connection": "close"}


async def read_body(scope: Scope, receive: Receive, *, most: int, seconds: float) -> bytes:
    """The whole body.

    Args:
        scope, receive: of the ASGI request.
        most: bytes it may have.
        seconds: it may take to come.

    Raises:
        Problem: it is larger, or did not come in time.
        ClientDisconnect: the caller went away.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > most:
            raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, most)
    except TimeoutError:
        raise Problem("slow-body", f"body: expected all of it within {seconds:g} s, got less", headers=_CLOSE) from None


async def _read(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int) -> Problem:
    return Problem("too-large", f"body: expected at most {most} bytes, got more; ask for fewer candidates", headers=_CLOSE)
