"""The pages: each reads a body, asks the client through a gate, and writes the answer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from moontide.errors import MoontideError
from moontide.spaces import EmbeddingSpace
from serving.http import media
from serving.http.answers import encoded
from serving.http.body import read_body
from serving.http.gate import Gate
from serving.http.problems import Problem
from serving.http.readiness import Readiness
from serving.http.requests import features_query, prefetch_query, sequence_query, similar_query

if TYPE_CHECKING:
    from serving.http.app import Parts

_JSON_ONLY: Final = (media.JSON,)
_log = logging.getLogger(__name__)


class Pages:
    """The pages of one worker.

    Args:
        parts: what they ask.
        gate: where features and sequences are read.
        slow: where neighbours are, which may take a scan; it holds up nobody else.
        readiness: what ``/readyz`` says.
    """

    def __init__(self, parts: Parts, gate: Gate, slow: Gate, readiness: Readiness) -> None:
        self._parts, self._gate, self._slow, self._readiness = parts, gate, slow, readiness
        self._services = frozenset(service.name for service in parts.live.services)
        self._spaces = {live.space.id: live.space for live in parts.live.spaces}

    async def features(self, request: Request) -> Response:
        """Features of C candidates for one user, in the order asked for: vectors, tier counts and item fields."""
        accept, kind = media.wanted(request.headers.get("accept")), media.of_body(request.headers.get("content-type"))
        body = await self._body(request)
        given = request.scope["request_id"] if request.scope["request_id_given"] else None
        over = threading.Event()

        def read() -> pa.Table:
            query = features_query(body, kind, most=self._parts.settings.serving_max_candidates)
            self._require_service(query.service)
            asked = query.request_id or given
            found = self._parts.client.read(
                query.user_id, query.item_ids, service=query.service, request_id=asked, waited_for=lambda: not over.is_set()
            )
            self._parts.metrics.served(found)
            return found.to_arrow()

        try:
            return await _answer(self._gate, read, accept)
        finally:
            # A read that goes on after its caller was told "timeout" is not logged.
            over.set()

    async def prefetch(self, request: Request) -> Response:
        """Begin to read the user side of a request whose candidates are still being retrieved. Answers before it is read."""
        media.of_body(request.headers.get("content-type"), _JSON_ONLY)
        accept = media.wanted(request.headers.get("accept"), _JSON_ONLY)
        query = prefetch_query(await self._body(request))
        self._require_service(query.service)
        client = self._parts.client
        started = self._gate.start(lambda: client.prefetch(query.user_id, request_id=query.request_id, service=query.service))
        started.add_done_callback(self._prefetched)
        return Response(b"{}", 202, media_type=accept)

    async def similar(self, request: Request) -> Response:
        """The k items whose vectors are nearest to an item's, by cosine."""
        accept = media.wanted(request.headers.get("accept"))
        media.of_body(request.headers.get("content-type"), _JSON_ONLY)
        query = similar_query(await self._body(request))
        space, client = self._space(query.space), self._parts.client
        return await _answer(self._slow, lambda: client.similar(query.item_id, k=query.k, space_id=space.id), accept)

    async def sequence(self, request: Request) -> Response:
        """The behaviours of a user that candidates are compared with, newest last, with their vectors."""
        accept = media.wanted(request.headers.get("accept"))
        media.of_body(request.headers.get("content-type"), _JSON_ONLY)
        query = sequence_query(await self._body(request))
        self._require_service(query.service)
        client = self._parts.client
        return await _answer(
            self._gate, lambda: client.sequence(query.user_id, service=query.service, length=query.length), accept
        )

    async def healthz(self, request: Request) -> Response:
        """The process lives."""
        return Response(b"ok\n", media_type="text/plain")

    async def readyz(self, request: Request) -> Response:
        """The stores answer; if not, ``problems`` of the 503 says which does not, and how."""
        problems = await self._readiness.problems()
        if problems:
            return Problem("not-ready", "; ".join(sorted({found["check"] for found in problems}))).response(problems=problems)
        return Response(b"ok\n", media_type="text/plain")

    async def metrics(self, request: Request) -> Response:
        """Counts and times of all workers, in Prometheus' text format."""
        body, kind = await asyncio.to_thread(self._parts.metrics.render)
        return Response(body, headers={"Content-Type": kind})

    async def _body(self, request: Request) -> bytes:
        limits = self._parts.settings
        return await read_body(
            request.scope, request.receive, most=limits.serving_max_body_bytes, seconds=limits.serving_body_seconds
        )

    def _require_service(self, name: str) -> None:
        if name not in self._services:
            raise Problem("unknown-service", f"service: expected one of {', '.join(sorted(self._services))}, got {name[:80]!r}")

    def _space(self, name: str | None) -> EmbeddingSpace:
        """The space of that id; of no id, that of the first service, or the first."""
        live = self._parts.live
        if name is None:
            return live.services[0].space if live.services else live.spaces[0].space
        if name not in self._spaces:
            raise Problem("unknown-space", f"space: expected one of {', '.join(sorted(self._spaces))}, got {name[:80]!r}")
        return self._spaces[name]

    def _prefetched(self, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._parts.metrics.prefetch_failed()
            kind = type(error).__name__
            _log.warning("prefetch failed: %s", kind, exc_info=None if isinstance(error, MoontideError) else error)


async def _answer(gate: Gate, read: Callable[[], pa.Table], accept: str) -> Response:
    """What `read` gives, written where it was read: the event loop only moves bytes."""
    return Response(await gate.run(lambda: encoded(read(), accept)), media_type=accept)
