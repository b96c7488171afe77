"""HTTP/1.1 as uvicorn speaks it, for callers that are slow, many or broken."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http.problems import MEDIA_TYPE, Problem


class Guarded(HttpToolsProtocol):
    """Ends connections that send no whole headers in time or do not read their answer; what is no HTTP is a typed 400.

    Attributes:
        header_seconds: from the connection, or from the first byte of a later request, to the end of its headers; and how long
            an answer may wait for a caller that takes nothing of it.
        most_connections: of this process; one more is answered 503.
        most_requests: of one connection, which ends then: so connections spread over workers that came later.
    """

    header_seconds = 5.0
    most_connections = 512
    most_requests = 1_000
    _requests = 0
    _headers_due: TimerHandle | None = None
    _taken_due: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller came."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._refuse(Problem("busy", f"connections: expected at most {self.most_connections}, got more; try again"))
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """A caller went."""
        self._cancel()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller does not take its answer, which fills the buffer."""
        super().pause_writing()
        if self._taken_due is None:
            self._taken_due = self.loop.call_later(self.header_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._taken()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._headers_due is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        self._cancel()
        super().on_headers_complete()
        self._requests += 1
        if self._requests >= self.most_requests:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP/1.1."""
        self._refuse(Problem("malformed", "request: expected HTTP/1.1, got something else"))

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after an answer; where the answer itself was not taken, it is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.header_seconds, self._no_headers)

    def _no_headers(self) -> None:
        self._headers_due = None
        if not self.transport.is_closing():
            self.transport.close()

    def _cancel(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _taken(self) -> None:
        if self._taken_due is not None:
            self._taken_due.cancel()
            self._taken_due = None

    def _refuse(self, problem: Problem) -> None:
        self._cancel()
        body = bytes(problem.response().body)
        lines = [STATUS_LINE[problem.status], f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n".encode()]
        lines += [f"{name.lower()}: {value}\r\n".encode() for name, value in problem.headers.items()]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", body]))
        self.transport.close()


def guarded(*, header_seconds: float, most_connections: int) -> type[Guarded]:
    """The protocol with these limits."""
    return type("Limited", (Guarded,), {"header_seconds": header_seconds, "most_connections": most_connections})
