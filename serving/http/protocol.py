"""HTTP/1.1 as uvicorn speaks it, for callers that are slow, many or broken."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http.problems import MEDIA_TYPE, Problem

#: Bytes of the headers of one request, and of what comes after the answer to one whose body was not waited for.
_MOST_HEAD: Final = 1 << 16
_MOST_REST: Final = 1 << 24
#: Bytes parsed at once: no more requests than fit in them wait for their turn on one connection.
_SLICE: Final = 1 << 10


class _Flow(FlowControl):
    """Reads nothing while it is held, whatever the request that runs asks for."""

    held = False

    def resume_reading(self) -> None:
        """Read again, unless held."""
        if not self.held:
            super().resume_reading()


class Guarded(HttpToolsProtocol):
    """Ends connections that send no whole headers in time or do not read their answer; what is no HTTP is a typed 400.

    A request that asks for an upgrade is answered as if it did not (RFC 9110, section 7.8). Of requests that do not wait for the
    answers to those ahead of them a few are parsed; what is behind stays with the caller until they were answered.

    Attributes:
        header_seconds: from the connection, or from the first byte of a later request, to the end of its headers; and how long
            an answer may wait for a caller that takes nothing of it, or the rest of a body go on after its answer.
        most_connections: of this process; one more is answered 503.
        most_requests: of one connection, which ends then: so connections spread over workers that came later.
        ending: whether the server ends, and so each connection with its next answer. uvicorn tells those that are there when it
            begins to end, and not one whose TLS handshake is under way then.
    """

    header_seconds = 5.0
    most_connections = 512
    most_requests = 1_000
    ending: Callable[[], bool] = staticmethod(lambda: False)
    flow: _Flow
    _requests = 0
    _full = False
    _unparsed = memoryview(b"")
    _in_head = False
    _came = 0
    _headers_due: TimerHandle | None = None
    _taken_due: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller came."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        if len(self.connections) > self.most_connections:
            self._refuse(Problem("busy", f"connections: expected at most {self.most_connections}, got more; try again"))
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """A caller went."""
        self._cancel()
        self._taken()
        self._unparsed = memoryview(b"")
        super().connection_lost(exc)

    def data_received(self, data: bytes | memoryview) -> None:
        """Bytes came."""
        if self._full:
            return
        if self.flow.held:
            self._unparsed = memoryview(b"".join([self._unparsed, data]))
            return
        awaited = self._headers_due
        self._unset_keepalive_if_required()
        self._unparsed = self._parsed(memoryview(data))
        if self.parser is None or self.transport.is_closing():
            return
        if self.pipeline:
            # The time of a head that is half here does not run while nothing of it is read.
            self._cancel()
            self.flow.held = True
            self.flow.pause_reading()
        elif self._headers_due is None:
            # Bytes after an answer ended uvicorn's time for the next request, and are none.
            if self.cycle is not None and self.cycle.response_complete:
                self._await_headers()
        elif self._headers_due is awaited:
            self._came += len(data)
            if self._came > (_MOST_HEAD if self._in_head else _MOST_REST):
                self._too_much()

    def on_response_complete(self) -> None:
        """A request was answered; the next begins."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_taken()
        elif self.flow.held and not self.pipeline:
            self.loop.call_soon(self._go_on)

    def pause_writing(self) -> None:
        """The caller does not take its answer, which fills the buffer."""
        super().pause_writing()
        self._await_taken()

    def resume_writing(self) -> None:
        """It does again."""
        self._taken()
        if self.transport.is_closing():
            self._await_taken()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._requests >= self.most_requests:
            # The connection ends with the answer to the one before.
            self._full = True
            raise ValueError
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
        if self._requests >= self.most_requests or self.ending():
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

    def _go_on(self) -> None:
        """Take up what was not parsed, then the connection."""
        if not self.flow.held or self.pipeline or self.parser is None or self.transport.is_closing():
            return
        self.flow.held = False
        if self._in_head:
            self._await_headers()
        if self._unparsed:
            self.data_received(self._unparsed)
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _parsed(self, data: memoryview) -> memoryview:
        """Parse until a request has to wait for its turn; returns what is left."""
        while data and not self.pipeline and not self._full and self.parser is not None and not self.transport.is_closing():
            piece = data[:_SLICE]
            rest = self._feed(piece)
            data = data[len(piece) - (0 if rest is None else len(rest)) :]
        return data

    def _feed(self, data: memoryview) -> memoryview | None:
        """Parse; returns what is left after the headers of a request that asks for an upgrade, where the parser stops."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._full:
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
            self._close()

    def _cancel(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _await_taken(self) -> None:
        if self._taken_due is None and self.transport.get_write_buffer_size():
            self._taken_due = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _taken(self) -> None:
        if self._taken_due is not None:
            self._taken_due.cancel()
            self._taken_due = None

    def _too_much(self) -> None:
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._refuse(Problem("too-large", f"headers: expected at most {_MOST_HEAD} bytes, got more"))
        else:
            # An answer is on its way, or was given.
            self._close()

    def _refuse(self, problem: Problem) -> None:
        self._cancel()
        body = bytes(problem.response().body)
        lines = [STATUS_LINE[problem.status], f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n".encode()]
        lines += [f"{name.lower()}: {value}\r\n".encode() for name, value in problem.headers.items()]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", body]))
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._await_taken()


def guarded(*, header_seconds: float, most_connections: int, ending: Callable[[], bool] = lambda: False) -> type[Guarded]:
    """The protocol with these limits."""
    limits = {"header_seconds": header_seconds, "most_connections": most_connections, "ending": staticmethod(ending)}
    return type("Limited", (Guarded,), limits)
