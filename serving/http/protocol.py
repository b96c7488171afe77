"""HTTP/1.1 as uvicorn speaks it, for callers that are slow, many or broken."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http.problems import MEDIA_TYPE, Problem

#: Bytes of the headers of one request, and of what comes after the answer to one whose body was not waited for.
_MOST_HEAD: Final = 1 << 16
_MOST_REST: Final = 1 << 24


class Guarded(HttpToolsProtocol):
    """Ends connections that send no whole headers in time or do not read their answer; what is no HTTP is a typed 400.

    A request that asks for an upgrade is answered as if it did not (RFC 9110, section 7.8).

    Attributes:
        header_seconds: from the connection, or from the first byte of a later request, to the end of its headers; and how long
            an answer may wait for a caller that takes nothing of it, or the rest of a body go on after its answer.
        most_connections: of this process; one more is answered 503.
        most_requests: of one connection, which ends then: so connections spread over workers that came later.
    """

    header_seconds = 5.0
    most_connections = 512
    most_requests = 1_000
    _requests = 0
    _in_head = False
    _came = 0
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

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        awaited = self._headers_due
        self._unset_keepalive_if_required()
        rest: memoryview | None = memoryview(data)
        while rest is not None and self.parser is not None and not self.transport.is_closing():
            rest = self._feed(rest)
        if self.parser is None or self.transport.is_closing():
            return
        if self._headers_due is None:
            # Bytes after an answer ended uvicorn's time for the next request, and are none.
            if self.cycle is not None and self.cycle.response_complete:
                self._await_headers()
        elif self._headers_due is awaited:
            self._came += len(data)
            if self._came > (_MOST_HEAD if self._in_head else _MOST_REST):
                self._too_much()

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
        self._in_head = True
        if self._requests:
            self._cancel()
        if self._headers_due is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError
            return
        self._in_head = False
        self._cancel()
        super().on_headers_complete()
        self._requests += 1
        if self._requests >= self.most_requests:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Its body is, too."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP/1.1."""
        self._refuse(Problem("malformed", "request: expected HTTP/1.1, got something else"))

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after an answer; where the answer itself was not taken, it is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _feed(self, data: memoryview) -> memoryview | None:
        """Parse; returns what is left after the headers of a request that asks for an upgrade, where the parser stops."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        return None

    def _without_upgrade(self, rest: memoryview) -> memoryview:
        """The same headers again for a new parser, but for the one that asks."""
        said = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        version = self.parser.get_http_version().encode()
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, said)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(memoryview(head))
        return rest

    def _await_headers(self) -> None:
        self._came = 0
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

    def _too_much(self) -> None:
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._refuse(Problem("too-large", f"headers: expected at most {_MOST_HEAD} bytes, got more"))
        else:
            # An answer is on its way, or was given.
            self.transport.close()

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
