"""The pages that requests wait for, past the framework: its routing, parsing and injection cost a tenth of what they may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from moontide.errors import MoontideError
from serving.http.problems import Problem, answer_error, answer_problem

Page = Callable[[Request], Awaitable[Response]]


class Direct:
    """Answers a POST to one of `pages` itself, and leaves everything else to `app`, which has the same pages in its document.

    Args:
        app: what it wraps.
        pages: by path.
    """

    def __init__(self, app: ASGIApp, pages: Mapping[str, Page]) -> None:
        self._app, self._pages = app, dict(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        page = self._pages.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if page is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await page(request)
        except Problem as problem:
            response = await answer_problem(request, problem)
        except MoontideError as error:
            response = await answer_error(request, error)
        await response(scope, receive, send)
