"""Uvicorn on an event loop that gives TLS no more time than it gives HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop


class TimedConfig(uvicorn.Config):
    """Uvicorn's settings, on uvloop.

    Attributes:
        tls_seconds: a TLS handshake may take, and the end of a connection; asyncio's own 60 s and 30 s are no limit to a caller
            that means to hold connections, which `Guarded` sees only after the handshake.
    """

    tls_seconds = 5.0

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """What makes the loop."""
        return lambda: _Loop(self.tls_seconds)


class _Loop(uvloop.Loop):
    def __init__(self, tls_seconds: float) -> None:
        super().__init__()
        self._tls_seconds = tls_seconds

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("ssl") is not None:
            kwargs |= {"ssl_handshake_timeout": self._tls_seconds, "ssl_shutdown_timeout": self._tls_seconds}
        return await super().create_server(*args, **kwargs)
