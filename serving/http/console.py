"""``/console``: a page to look at items, users and spaces, and the JSON that its script reads.

It is for people: its one thread is apart from those that rank. The page is open to all and holds no data; what is below
``/console/api`` needs a token where the server does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from moontide import names
from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.live import LiveSpaces, Service
from moontide.settings import Settings
from serving.client import RankingClient
from serving.http.body import read_body
from serving.http.console_catalog import Catalog
from serving.http.console_pictures import SIDES, Thumbnails
from serving.http.console_reads import MOST_CANDIDATES, MOST_HITS, MOST_ROWS, Look
from serving.http.console_spaces import SpaceStates
from serving.http.gate import Gate
from serving.http.problems import Problem
from serving.table import VectorTables

_FILES: Final = {
    "/console": ("console.html", "text/html; charset=utf-8"),
    "/console/static/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/static/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console/static/icon.svg": ("icon.svg", "image/svg+xml"),
}
#: Answered without a token: they are the same for everybody.
OPEN_PAGES: Final = frozenset(_FILES)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_API: Final = "/console/api"
_MOST_TEXT: Final = 100
_BODY_BYTES: Final = 1 << 14
#: A scan for a person may take longer than a request of a ranker; one runs, few wait.
_SECONDS: Final = 20.0
_WAITING: Final = 48
_log = logging.getLogger(__name__)


class Console:
    """The pages of one worker.

    Args:
        client: what is asked; nothing of it is logged as served.
        live: its spaces and services.
        settings: names the catalog.
        monotonic: seconds.
    """

    def __init__(
        self,
        client: RankingClient,
        live: LiveSpaces,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        catalog = None if settings.serving_catalog is None else Catalog(settings.serving_catalog)
        self._live = live
        self._seconds = settings.serving_body_seconds
        self._look = Look(client, live, catalog)
        self._thumbnails = None if catalog is None else Thumbnails(catalog, settings.image_schemes)
        tables = client.vectors if isinstance(client.vectors, VectorTables) else None
        self._states = SpaceStates(client, live, catalog, monotonic, tables)
        self._gate = Gate(threads=1, waiting=_WAITING, seconds=_SECONDS)

    def router(self) -> APIRouter:
        """All routes; none is in the OpenAPI document, which is for programs."""
        router = APIRouter(include_in_schema=False)
        for path in _FILES:
            router.add_api_route(path, self.page, methods=["GET"], response_class=Response)
        for name in ("site", "items", "users", "similar", "sequence", "spaces", "picture"):
            router.add_api_route(f"{_API}/{name}", getattr(self, name), methods=["GET"], response_class=Response)
        router.add_api_route(f"{_API}/tiers", self.tiers, methods=["POST"], response_class=Response)
        return router

    def close(self) -> None:
        """Wait for what runs."""
        self._gate.close()

    async def page(self, request: Request) -> Response:
        """The page, its style and its script."""
        name, media = _FILES[request.url.path]
        body = resources.files("serving.http").joinpath("static", name).read_bytes()
        return Response(body, headers={**_PAGE_HEADERS, "Content-Type": media, "Cache-Control": "no-cache"})

    async def site(self, _: Request) -> Response:
        """Services and spaces, and whether there is a catalog."""
        services = [
            {
                "name": s.name, "space": s.space.id, "simtier": s.simtier.spec_id, "tiers": s.simtier.tiers,
                "length": s.simtier.length, "self_match": s.simtier.self_match,
            }
            for s in self._live.services
        ]  # fmt: skip
        spaces = [entry.space.id for entry in self._live.spaces]
        return _json({"services": services, "spaces": spaces, "catalog": self._thumbnails is not None})

    async def items(self, request: Request) -> Response:
        """``q``, ``limit``: items by id prefix or words of the title."""
        text, most = _text(request, "q"), _whole(request, "limit", 24, MOST_HITS)
        return await self._answer(lambda: {"items": self._look.items(text, most)})

    async def users(self, request: Request) -> Response:
        """``q``, ``limit``: users whose id begins so."""
        text, most = _text(request, "q"), _whole(request, "limit", 20, MOST_HITS)
        return await self._answer(lambda: {"users": self._look.users(self._service(request), text, most)})

    async def similar(self, request: Request) -> Response:
        """``item_id``, ``k``, ``space``: an item and its nearest."""
        item_id, k = _id(request, names.ITEM_ID), _whole(request, "k", 12, MOST_HITS)
        space = request.query_params.get("space")
        known = [entry.space.id for entry in self._live.spaces]
        if space is not None and space not in known:
            raise Problem("unknown-space", f"space: expected one of {', '.join(known)}, got {space[:80]!r}")
        service = self._service(request)
        return await self._answer(lambda: self._look.similar(item_id, k, service, space))

    async def sequence(self, request: Request) -> Response:
        """``user_id``, ``service``, ``limit``: the newest behaviours, newest first."""
        user_id, most = _id(request, names.USER_ID), _whole(request, "limit", 60, MOST_ROWS)
        service = self._service(request)
        return await self._answer(lambda: self._look.sequence(user_id, service, most))

    async def tiers(self, request: Request) -> Response:
        """Body ``{"user_id", "item_ids", "service"}``: the counts that `RankingClient.features` gives."""
        found = _object(await read_body(request.scope, request.receive, most=_BODY_BYTES, seconds=self._seconds))
        ids, user_id = found.get("item_ids"), found.get(names.USER_ID)
        if not isinstance(ids, list) or not all(names.is_id(item) for item in ids):
            raise Problem("poison", "item_ids: expected a list of item ids, got something else")
        if len(ids) > MOST_CANDIDATES:
            raise Problem(
                "too-many-candidates", f"item_ids: expected at most {MOST_CANDIDATES}, got {len(ids)}; ask /v1/features"
            )
        if not isinstance(user_id, str) or not names.is_id(user_id):
            raise Problem("poison", "user_id: expected 1 to 64 characters of [A-Za-z0-9._:-], got others")
        service = self._named(found.get("service"))
        return await self._answer(lambda: self._look.tiers(user_id, ids, service))

    async def spaces(self, _: Request) -> Response:
        """Freshness and coverage of every space."""
        return await self._answer(lambda: {"spaces": [asdict(state) for state in self._states.read()]})

    async def picture(self, request: Request) -> Response:
        """``item_id``, ``side``: a thumbnail, made here."""
        item_id, side = _id(request, names.ITEM_ID), _whole(request, "side", SIDES[0], max(SIDES))
        if side not in SIDES:
            raise Problem("poison", f"side: expected one of {SIDES}, got {side}")
        thumbnails = self._thumbnails
        made = None if thumbnails is None else await self._run(lambda: thumbnails.of(item_id, side))
        if made is None:
            raise Problem("not-found", "picture: none of this item can be shown")
        return Response(made, media_type="image/jpeg")

    async def _answer(self, work: Callable[[], Any]) -> Response:
        return _json(await self._run(work))

    async def _run(self, work: Callable[[], Any]) -> Any:
        try:
            return await self._gate.run(work)
        except Transient as error:
            _log.warning("console: %s", error)
            raise
        except Misconfigured as error:
            if isinstance(error, SpaceMismatch):
                raise
            _log.warning("console: %s", error)
            raise Problem(
                "not-available", "catalog or store: expected one that can be read; the server's log says more"
            ) from error

    def _service(self, request: Request) -> Service:
        return self._named(request.query_params.get("service"))

    def _named(self, name: object) -> Service:
        """The service of that name; the first one for None."""
        if name is None and self._live.services:
            return self._live.services[0]
        for service in self._live.services:
            if service.name == name:
                return service
        known = ", ".join(service.name for service in self._live.services)
        raise Problem("unknown-service", f"service: expected one of {known or 'none'}, got {names.shown(name)}")


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _text(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if len(value) > _MOST_TEXT:
        raise Problem("poison", f"{name}: expected at most {_MOST_TEXT} characters, got {len(value)}")
    return value


def _id(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None or not names.is_id(value):
        raise Problem(
            "poison", f"{name}: expected 1 to 64 characters of [A-Za-z0-9._:-], got {'nothing' if value is None else 'others'}"
        )
    return value


def _whole(request: Request, name: str, default: int, most: int) -> int:
    value = request.query_params.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) <= 6 and 1 <= int(value) <= most):
        raise Problem("poison", f"{name}: expected a whole number from 1 to {most}, got {value[:20]!r}")
    return int(value)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Problem("malformed", "body: expected JSON in UTF-8, got something else") from None
    if not isinstance(found, dict):
        raise Problem("poison", f"body: expected a JSON object, got {type(found).__name__}")
    return found
