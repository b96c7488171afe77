"""Requests as httpx sends them, and its failures as ours; what the blocking and the asyncio client share."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx

from moontide.client.calls import Attempt
from moontide.client.wire import ARROW, JSON, Question, Unavailable, bearer

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
        headers = {"accept": f"{ARROW}, {JSON};q=0.1", "accept-encoding": "identity", "user-agent": "moontide"}
        if token is not None:
            headers["authorization"] = bearer(token)
        self._headers = headers
        self._urls = {url: httpx.URL(url) for url in urls}
        #: Reading the authorities takes longer than a hundred requests: only where they are asked.
        self.verify = tls or any(url.startswith("https:") for url in urls)
        self.limits = httpx.Limits(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEP_SECONDS
        )

    def request(self, question: Question[T], url: str, extensions: dict[str, Any]) -> httpx.Request:
        """One POST."""
        base = self._urls[url]
        target = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + question.path.encode())
        headers = {**self._headers, "content-type": question.content_type}
        return httpx.Request("POST", target, headers=headers, content=question.body, extensions=extensions)


def timeouts(seconds: float) -> dict[str, Mapping[str, float]]:
    """The limits of one request of `seconds`."""
    left = max(seconds, 0.001)
    return {"timeout": {"connect": min(left, _CONNECT_SECONDS), "read": left, "write": left, "pool": left}}


def slow(seconds: float) -> httpx.ReadTimeout:
    """The failure of an answer that goes on and on."""
    return httpx.ReadTimeout(f"the answer was not whole after {seconds:.3f} s")


def lost(path: str, attempt: Attempt, error: httpx.TransportError) -> tuple[Unavailable, bool]:
    """A failure of the connection as our error, and whether nobody listens at that address."""
    said = " ".join(str(error).split()) or type(error).__name__
    gone = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    failure = Unavailable(
        f"{path} at {attempt.url}: expected an answer within {attempt.seconds:.3f} s, got none ({type(error).__name__}: {said}); "
        "ask again, or raise timeout"
    )
    failure.__cause__ = error
    return failure, gone
