"""Kept connections of the blocking client, over the standard library: httpx alone would cost half of what a request may take."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from moontide.client.wire import Answer
from moontide.errors import Misconfigured

#: Idle connections kept to one server.
_IDLE: Final = 64
#: One that is there accepts at once; one that is not must not cost the whole deadline.
_CONNECT_SECONDS: Final = 1.0
_CHUNK: Final = 1 << 20
#: With a connection that was idle: the server may have closed it just now.
_STALE: Final = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class Lost(Exception):
    """No whole answer came; the cause says why. `gone`: nobody listens there."""

    def __init__(self, cause: Exception, *, gone: bool) -> None:
        super().__init__(" ".join(str(cause).split()) or type(cause).__name__)
        self.__cause__ = cause
        self.gone = gone


class _Connection(http.client.HTTPConnection):
    """Sends a request in one piece: in two, head and body would wake the server twice."""

    _pieces: list[bytes]

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send a POST over an open connection."""
        self._pieces = []
        self.request("POST", path, body, dict(headers))
        whole, self._pieces = b"".join(self._pieces), []
        super().send(whole)

    def send(self, data: bytes) -> None:  # type: ignore[override]
        """What the library would send on its own."""
        self._pieces.append(data)


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


class Pool:
    """Connections to a few servers. Thread-safe: one that is in use belongs to one thread.

    Args:
        urls: base URLs.
        tls: for ``https``; None: the usual authorities and checks.
        clock: seconds, never backwards.

    Raises:
        Misconfigured: a URL with no host, or with a port that is none.
    """

    def __init__(self, urls: Sequence[str], tls: ssl.SSLContext | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._idle: dict[str, deque[_Connection]] = {url: deque() for url in urls}
        self._prefix: dict[str, str] = {}
        self._make: dict[str, Callable[[float], _Connection]] = {}
        for url in urls:
            self._prefix[url], self._make[url] = _maker(url, tls, clock)

    def post(self, url: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Answer:
        """One request.

        Raises:
            Lost: no whole answer within `seconds`.
        """
        ends = self._clock() + seconds
        kept = self._kept(url)
        if kept is not None:
            try:
                return self._ask(kept, url, path, headers, body, ends)
            except Lost as lost:
                if not isinstance(lost.__cause__, _STALE):
                    raise
        fresh = self._make[url](max(min(seconds, _CONNECT_SECONDS), 0.001))
        try:
            fresh.connect()
        except OSError as error:
            fresh.close()
            raise Lost(error, gone=True) from error
        return self._ask(fresh, url, path, headers, body, ends)

    def close(self) -> None:
        """Close what is idle."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _ask(self, connection: _Connection, url: str, path: str, headers: Mapping[str, str], body: bytes, ends: float) -> Answer:
        try:
            self._limit(connection, ends)
            connection.post(self._prefix[url] + path, headers, body)
            response = connection.getresponse()
            parts = []
            # A socket's timeout is one of each read: a server that sends byte after byte would never meet it.
            while part := response.read1(_CHUNK):
                parts.append(part)
                self._limit(connection, ends)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            # At the end of a body, read1() leaves the connection as if it were still being read.
            response.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise Lost(error, gone=False) from error
        if response.will_close or len(self._idle[url]) >= _IDLE:
            connection.close()
        else:
            self._idle[url].append(connection)
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, b"".join(parts))

    def _kept(self, url: str) -> _Connection | None:
        """The connection used last that the server has not closed."""
        idle = self._idle[url]
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()
        return None

    def _limit(self, connection: _Connection, ends: float) -> None:
        left = ends - self._clock()
        if left <= 0:
            raise TimeoutError("timed out")
        if connection.sock is not None:
            connection.sock.settimeout(left)


def _maker(url: str, tls: ssl.SSLContext | None, clock: Callable[[], float]) -> tuple[str, Callable[[float], _Connection]]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # what a resolver is asked
    except ValueError:
        host, port = None, None
    if not host:
        raise Misconfigured(f"client: expected http:// or https:// with a host, got {url!r}")
    context = None if parts.scheme == "http" else tls or ssl.create_default_context()

    def make(seconds: float) -> _Connection:
        plain = context is None
        made = _Connection(host, port, timeout=seconds) if plain else _TlsConnection(host, port, timeout=seconds, context=context)
        made._create_connection = lambda address, seconds, _source: _dial(address, seconds, clock)  # type: ignore[attr-defined]
        return made

    return parts.path, make


def _dial(address: tuple[str, int], seconds: float, clock: Callable[[], float]) -> socket.socket:
    """Connect to one of a name's addresses, in `seconds` for all of them; a TLS handshake gets what is left."""
    ends, failed = clock() + seconds, OSError("no address")
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, place) in enumerate(found):
        left = ends - clock()
        if left <= 0:
            raise TimeoutError("timed out")
        made = socket.socket(family, kind, protocol)
        try:
            # One that swallows what it is sent must leave the others their time.
            made.settimeout(left / (len(found) - number))
            made.connect(place)
        except OSError as error:
            made.close()
            failed = error
        else:
            made.settimeout(max(ends - clock(), 0.001))
            return made
    raise failed
