"""Pages answered past the framework say what they would say within it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from moontide.errors import Misconfigured, MoontideError, Poison, SpaceMismatch, Transient
from serving.http.answers import encoded
from serving.http.direct import Direct
from serving.http.media import ARROW
from serving.http.problems import Problem, answer_error, answer_problem

pytestmark = pytest.mark.unit
ERRORS = [
    Problem("busy", "later"),
    Problem("poison", "no", headers={"X-More": "1"}),
    Poison("bad id"),
    SpaceMismatch("other encoder"),
    Transient("redis://user:secret@host does not answer"),
]


async def framework(request):
    return Response(b"framework", 201)


def page_that(outcome):
    async def page(request):
        if isinstance(outcome, Exception):
            raise outcome
        return Response(await request.body(), 200, {"X-Page": "direct"})

    return page


def both(outcome):
    """The page past the framework, and within it."""
    page = page_that(outcome)
    handlers = {Problem: answer_problem, MoontideError: answer_error}
    within = Starlette(routes=[Route("/p", page, methods=["POST"])], exception_handlers=handlers)
    return TestClient(Direct(framework_app(), {"/p": page})), TestClient(within)


def framework_app():
    return Starlette(routes=[Route("/p", framework, methods=["GET", "PUT"]), Route("/q", framework, methods=["POST"])])


@pytest.mark.parametrize("outcome", [None, *ERRORS], ids=lambda o: type(o).__name__)
def test_the_answer_is_the_frameworks(outcome):
    direct, within = both(outcome)
    ours, theirs = direct.post("/p", content=b"body"), within.post("/p", content=b"body")
    assert (ours.status_code, ours.content, ours.headers) == (theirs.status_code, theirs.content, theirs.headers)
    assert b"secret" not in ours.content


def test_what_is_nobodys_business_is_raised():
    direct, _ = both(Misconfigured("a path on this machine"))
    with pytest.raises(Misconfigured):
        direct.post("/p")


@pytest.mark.parametrize(("method", "path"), [("GET", "/p"), ("PUT", "/p"), ("POST", "/q")])
def test_other_methods_and_pages_are_the_frameworks(method, path):
    direct, _ = both(None)
    assert direct.request(method, path).content == b"framework"


@pytest.mark.parametrize("rows", [0, 1, 700])
def test_an_arrow_answer_is_one_whole_stream(rows):
    columns = {"item_id": [f"i{n}" for n in range(rows)], "price": [None if n % 3 else n / 7 for n in range(rows)]}
    schema = pa.schema([("item_id", pa.string()), ("price", pa.float32())], metadata={"service": "s"})
    table = pa.table(columns, schema=schema)
    coded = table.set_column(0, "item_id", table["item_id"].dictionary_encode())
    for given in (table, coded, pa.concat_tables([table, table]), table.slice(rows // 2)):
        stream = encoded(given, ARROW)
        assert pa.ipc.open_stream(stream).read_all().combine_chunks().equals(given.combine_chunks(), check_metadata=True)
        assert bytes(stream[-8:]) == b"\xff\xff\xff\xff\0\0\0\0"
