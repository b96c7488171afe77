"""Bodies made to hurt, and parts of the server that fail while an answer is good."""

import asyncio
import json
import struct

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from moontide import Misconfigured, Poison, SpaceMismatch, Transient
from moontide.names import require_ids
from moontide.settings import Settings
from serving.http import arrow_in
from serving.http.app import Parts, Site
from serving.http.console import OPEN_PAGES, Console
from serving.http.edge import Edge
from serving.http.metrics import Metrics
from serving.http.problems import Problem
from serving.http.tables import TableMetrics
from serving.http.tokens import Tokens
from tests.unit.serving.http_site import opened, web

pytestmark = pytest.mark.unit
DEEP = "[" * 1000 + "]" * 1000


@pytest.fixture
def site(tmp_path):
    client, live = opened(tmp_path)
    with client:
        yield client, live


def compressed_as_arrow_017(ids):
    """A stream whose one batch is compressed and says so only in the metadata of its message, as Arrow 0.17 (version V4) did."""
    schema, sink = pa.schema([("item_id", pa.string())], metadata={"user_id": "u"}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        codec = {"ARROW:experimental_compression": "zstd"}
        writer.write_batch(pa.record_batch([pa.array(ids)], schema=schema), custom_metadata=codec)
    raw = bytearray(sink.getvalue().to_pybytes())
    # The schema comes first and has no body; a message is 4 bytes of ones, its size, and a flatbuffer.
    at = 8 + struct.unpack_from("<Ii", raw, 0)[1]
    size = struct.unpack_from("<Ii", raw, at)[1]
    message = bytes(raw[at + 8 : at + 8 + size])
    root = struct.unpack_from("<I", message, 0)[0]
    version, header = arrow_in._field(message, root, 4), arrow_in._field(message, root, 8)
    struct.pack_into("<h", raw, at + 8 + version, 3)
    batch = header + struct.unpack_from("<I", message, header)[0]
    fields = batch - struct.unpack_from("<i", message, batch)[0]
    struct.pack_into("<H", raw, at + 8 + fields + 10, 0)
    return bytes(raw)


def test_a_body_compressed_in_the_form_of_arrow_017_is_refused():
    body = compressed_as_arrow_017(["a" * 1_000_000])
    batch = next(pa.ipc.open_stream(body))
    assert len(body) < 10_000 and len(batch.column(0)[0].as_py()) == 1_000_000, "the reader believes it"
    with pytest.raises(Problem, match="compress"):
        arrow_in.read_ids(body, most=10)


class Broken:
    """Tables that cannot be asked."""

    reads = {}  # noqa: RUF012 - never changed

    def __init__(self, error):
        self._error = error

    def states(self, _):
        raise self._error


@pytest.mark.parametrize("error", [Transient("gone"), SpaceMismatch("another encoder"), Misconfigured("no folder")])
def test_tables_that_cannot_be_measured_break_no_answer(site, error):
    metrics = Metrics()
    metrics.watch(TableMetrics(metrics, Broken(error), []))
    http = TestClient(Site(Parts(*site, metrics=metrics)).app)
    assert http.get("/healthz").status_code == 200
    assert http.get("/metrics").status_code == 200


def test_json_nested_deeply_where_a_text_belongs(site):
    body = f'{{"user_id": "u", "item_ids": [{DEEP}]}}'
    answer = web(*site).post("/v1/features", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    console = Console(*site, Settings())
    http = TestClient(Site(Parts(*site), console.router(), OPEN_PAGES).app)
    body = f'{{"user_id": "u", "item_ids": [], "service": {DEEP}}}'
    assert http.post("/console/api/tiers", content=body).status_code == 404
    console.close()


@pytest.mark.parametrize(
    ("value", "said"), [("a b", "'a b'"), (3, "'3'"), (None, "'None'"), (["a"], "list"), ("x y" * 99, repr(("x y" * 99)[:80]))]
)
def test_an_id_that_is_none_is_shown_shortened(value, said):
    with pytest.raises(Poison) as stop:
        require_ids(["a", value])
    assert f"got {said};" in str(stop.value)


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_the_server_ends_before_is_told_so_and_counted(begun):
    metrics, sent = Metrics(), []

    async def send(message):
        sent.append(message)

    async def run():
        there = asyncio.Event()

        async def page(scope, receive, send):
            if begun:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            there.set()
            await asyncio.Event().wait()

        edge = Edge(page, Tokens(), metrics, lambda: "drawn")
        scope = {"type": "http", "method": "GET", "path": "/readyz", "headers": []}
        asked = asyncio.create_task(edge(scope, None, send))
        await there.wait()
        asked.cancel()
        await asked

    asyncio.run(run())
    page, status = metrics.render()[0].decode(), 200 if begun else 503
    assert f'moontide_serving_requests_total{{route="/readyz",status="{status}"}} 1.0' in page
    assert sent[0]["status"] == status and (b"x-request-id", b"drawn") in sent[0]["headers"]
    assert begun == (len(sent) == 1)
    if not begun:
        assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["type"] == "urn:moontide:not-ready"
