"""Requests of the asyncio client as httpx sends them, and its failures as ours."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx

from moontide.client.calls import Attempt, unanswered
from moontide.client.wire import PATHS, Question, Unavailable, headers

T = TypeVar("T")

_CONNECTIONS: Final = 64
#: A server that is there accepts at once; one that is not must not cost the whole deadline.
_CONNECT_SECONDS: Final = 1.0
_KEEP_SECONDS: Final = 30.0


class Wires:
    """Makes requests for `urls`.

    Transports are used without httpx's client on top: cookies, redirects and content decoding are not wanted here, and cost more
    than the request.
    """

    def __init__(self, urls: Sequence[str], token: str | None, tls: ssl.SSLContext | None) -> None:
        self._headers = {kind: httpx.Headers(values) for kind, values in headers(token).items()}
        #: Parsing one takes as long as sending it.
        self._targets = {(url, path): httpx.URL(url + path) for url in urls for path in PATHS}
        #: Reading the authorities takes longer than a hundred requests: only where they are asked.
        self.verify = tls or any(url.startswith("https:") for url in urls)
        self.limits = httpx.Limits(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEP_SECONDS
        )

    def request(self, question: Question[T], url: str, extensions: dict[str, Any]) -> httpx.Request:
        """One POST."""
        target = self._targets[url, question.path]
        said = self._headers[question.content_type]
        return httpx.Request("POST", target, headers=said, content=question.body, extensions=extensions)


def timeouts(seconds: float) -> dict[str, Mapping[str, float]]:
    """The limits of one request of `seconds`."""
    left = max(seconds, 0.001)
    return {"timeout": {"connect": min(left, _CONNECT_SECONDS), "read": left, "write": left, "pool": left}}


def slow(seconds: float) -> httpx.ReadTimeout:
    """The failure of an answer that goes on and on."""
    return httpx.ReadTimeout(f"the answer was not whole after {seconds:.3f} s")


def lost(path: str, attempt: Attempt, error: httpx.TransportError) -> tuple[Unavailable, bool]:
    """A failure of the connection as our error, and whether nobody listens at that address."""
    gone = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return unanswered(path, attempt, error), gone
