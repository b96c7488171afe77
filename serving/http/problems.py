"""Every answer that is not the one asked for, as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from moontide.errors import MoontideError, Poison, SpaceMismatch, Transient

MEDIA_TYPE: Final = "application/problem+json"
#: Seconds after which a caller that was turned away may come back.
RETRY_SECONDS: Final = 1
_TYPE: Final = "urn:moontide:"

#: Name, as it ends the ``type`` of a problem -> status and title. A name has one status; a status may have several names.
KINDS: Final[Mapping[str, tuple[int, str]]] = {
    "malformed": (400, "The body cannot be read"),
    "no-token": (401, "A valid token is needed"),
    "not-found": (404, "No such page"),
    "unknown-service": (404, "No such feature service"),
    "unknown-space": (404, "No such embedding space"),
    "method": (405, "This method is not for this page"),
    "not-acceptable": (406, "No media type that is accepted can be given"),
    "slow-body": (408, "The body did not come in time"),
    "space-mismatch": (409, "The store holds vectors of another encoder"),
    "too-large": (413, "The body is too large"),
    "too-many-candidates": (413, "Too many candidates"),
    "media-type": (415, "The body is of a media type that is not taken"),
    "misdirected": (421, "This server does not answer to that name"),
    "poison": (422, "The request does not fit"),
    "internal": (500, "The server failed"),
    "not-available": (501, "This server has no such part"),
    "busy": (503, "Too many requests wait"),
    "transient": (503, "A store does not answer"),
    "not-ready": (503, "Not ready"),
    "timeout": (504, "The answer took too long"),
}


class Problem(Exception):
    """An answer to the caller instead of what was asked for.

    Args:
        kind: a name of `KINDS`, which decides status and title.
        detail: what was expected, what was got, what to do; shown to the caller.
        headers: of the answer.
    """

    def __init__(self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail
        self.status, self.title = KINDS[kind]
        self.headers = dict(headers or {})
        if self.status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))

    def response(self, **more: object) -> Response:
        """The answer, with `more` members."""
        body = {"type": _TYPE + self.kind, "title": self.title, "status": self.status, "detail": self.detail, **more}
        return Response(orjson.dumps(body), self.status, self.headers, MEDIA_TYPE)


def problem_of(error: MoontideError) -> Problem | None:
    """The problem an error of the stores is for a caller; None: one of the server's own, of which nothing is told."""
    if isinstance(error, SpaceMismatch):
        return Problem("space-mismatch", str(error))
    if isinstance(error, Poison):
        return Problem("poison", str(error))
    if isinstance(error, Transient):
        return Problem("transient", "a store that the answer needs does not answer now; try again")
    return None


async def answer_error(_: Request, error: Exception) -> Response:
    """Exception handler of the stores' errors; raises again what is none of the caller's business."""
    assert isinstance(error, MoontideError)
    problem = problem_of(error)
    if problem is None:
        raise error
    return problem.response()


async def answer_problem(_: Request, error: Exception) -> Response:
    """Exception handler of `Problem`."""
    assert isinstance(error, Problem)
    return error.response()


async def answer_http(_: Request, error: Exception) -> Response:
    """Exception handler of what the router raises: no such page, or not by this method."""
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "method"}.get(error.status_code, "malformed")
    return Problem(kind, str(error.detail), headers=error.headers).response()
