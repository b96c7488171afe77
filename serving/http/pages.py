"""The pages: each reads a body, asks the client through the gate, and writes the answer."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from moontide.live import LiveSpaces
from moontide.settings import Settings
from serving.client import RankingClient
from serving.http import media
from serving.http.answers import encoded
from serving.http.body import read_body
from serving.http.gate import Gate
from serving.http.metrics import Metrics
from serving.http.problems import Problem
from serving.http.requests import features_query


class Pages:
    """The pages of one worker.

    Args:
        client: what is asked.
        live: the spaces and services it serves.
        settings: the limits.
        gate: where it is asked.
        metrics: what is counted.
    """

    def __init__(self, client: RankingClient, live: LiveSpaces, settings: Settings, gate: Gate, metrics: Metrics) -> None:
        self._client, self._settings, self._gate, self._metrics = client, settings, gate, metrics
        self._services = frozenset(service.name for service in live.services)

    def router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        router.add_api_route("/v1/features", self.features, methods=["POST"], response_class=Response)
        router.add_api_route("/healthz", self.healthz, methods=["GET"], response_class=Response)
        router.add_api_route("/readyz", self.readyz, methods=["GET"], response_class=Response)
        router.add_api_route("/metrics", self.metrics, methods=["GET"], response_class=Response)
        return router

    async def features(self, request: Request) -> Response:
        """Features of C candidates for one user, in the order asked for."""
        accept, kind = self._media(request)
        body = await self._body(request)

        def read() -> pa.Table:
            query = features_query(body, kind, most=self._settings.serving_max_candidates)
            self._require_service(query.service)
            said = query.request_id or (request.scope["request_id"] if request.scope["request_id_given"] else None)
            return self._client.features(query.user_id, query.item_ids, service=query.service, request_id=said)

        return await self._answer(read, accept, self._metrics.served)

    async def healthz(self) -> Response:
        """The process lives."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self) -> Response:
        """The stores answer."""
        return Response("ok\n", media_type="text/plain")

    async def metrics(self) -> Response:
        """Prometheus' text format."""
        body, kind = self._metrics.render()
        return Response(body, headers={"Content-Type": kind})

    async def _answer(self, read: Callable[[], pa.Table], accept: str, count: Callable[[pa.Table], None]) -> Response:
        def work() -> bytes | memoryview:
            table = read()
            count(table)
            return encoded(table, accept)

        return Response(await self._gate.run(work), media_type=accept)

    async def _body(self, request: Request) -> bytes:
        limits = self._settings
        return await read_body(
            request.scope, request.receive, most=limits.serving_max_body_bytes, seconds=limits.serving_body_seconds
        )

    @staticmethod
    def _media(request: Request) -> tuple[str, str]:
        headers = request.headers
        return media.wanted(headers.get("accept")), media.of_body(headers.get("content-type"))

    def _require_service(self, name: str) -> None:
        if name not in self._services:
            raise Problem("unknown-service", f"service: expected one of {', '.join(sorted(self._services))}, got {name[:80]!r}")
