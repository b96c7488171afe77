"""Both HTTP clients against small servers of this test: what is sent, what comes back, and what each failure becomes."""

import asyncio
import http.server
import json
import random
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress

import numpy as np
import pyarrow as pa
import pytest

from moontide import Misconfigured, Poison, SpaceMismatch, Transient
from moontide.client import AsyncClient, Client, Patience, Unavailable
from moontide.client.pool import _Connection

pytestmark = pytest.mark.unit
ARROW = "application/vnd.apache.arrow.stream"
TABLE = pa.table({"item_id": ["a", "b"], "missing": pa.array([1, 2], pa.int32())}).replace_schema_metadata({"space": "moon_v1"})


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def problem(status, detail, **headers):
    return status, json.dumps({"type": "about:blank", "title": "t", "status": status, "detail": detail}).encode(), {
        "content-type": "application/problem+json", **headers,
    }  # fmt: skip


OK = (200, stream(TABLE), {"content-type": ARROW})


class Server:
    """Answers each request with the next of `answers`, the last one for ever; notes what was asked."""

    def __init__(self, *answers):
        self.asked, self.connections, answers = [], 0, list(answers)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def setup(self):
                outer.connections += 1
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if callable(answer):
                    return answer(self)
                status, content, headers = answer
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def half(handler):
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    hang_up(handler)


def drip(handler):
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass
    handler.close_connection = True


@pytest.fixture
def serve():
    made = []

    def start(*answers):
        made.append(Server(*answers))
        return made[-1]

    yield start
    for server in made:
        server.close()


class Asyncio:
    """`AsyncClient` with the manners of `Client`, so that every test runs over both."""

    def __init__(self, *args, **values):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **values)

    def __getattr__(self, name):
        return lambda *args, **values: self._loop.run_until_complete(getattr(self._client, name)(*args, **values))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()


@pytest.fixture(params=[Client, Asyncio], ids=["blocking", "asyncio"])
def connect(request):
    def made(urls, **values):
        return request.param(urls, **{"patience": Patience(random=random.Random(1).random), **values})

    return made


@pytest.mark.parametrize(
    "ids",
    [[], ["a"], ["a", "b", "a"], ("a",), iter(["a", "b"]), np.array(["a", "b"]), pa.array(["a"]), pa.chunked_array([["a"], ["b"]]),
     pa.array(["a", "b"], pa.large_string()), pa.array(["a", "b", "a"]).dictionary_encode()],
)  # fmt: skip
def test_the_ids_travel_as_one_arrow_column_and_the_rest_as_metadata(connect, serve, ids):
    wanted = list(ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else (ids := list(ids)))
    server = serve(OK)
    with connect(server.url, token="sesame") as client:
        got = client.features("u:1", ids, service="s", request_id="r1")
    path, headers, body = server.asked[0]
    sent = pa.ipc.open_stream(body).read_all()
    assert path == "/v1/features" and headers["content-type"] == ARROW and headers["accept"].startswith(ARROW)
    assert headers["authorization"] == "Bearer sesame"
    assert sent.column_names == ["item_id"] and sent.schema.types == [pa.string()] and sent["item_id"].to_pylist() == wanted
    assert sent.schema.metadata == {b"user_id": b"u:1", b"service": b"s", b"request_id": b"r1"}
    assert got.equals(TABLE, check_metadata=True)


def test_the_other_routes(connect, serve):
    server = serve((202, b"", {}), OK)
    with connect([server.url + "/"]) as client:
        assert client.prefetch("u", request_id="r", service="s") is None
        assert client.similar("a", k=3, space="moon_v1").equals(TABLE)
        assert client.similar("a").equals(TABLE)
        assert client.sequence("u", length=2).equals(TABLE)
    assert [(path, json.loads(body)) for path, _, body in server.asked] == [
        ("/v1/prefetch", {"user_id": "u", "request_id": "r", "service": "s"}),
        ("/v1/similar", {"item_id": "a", "k": 3, "space": "moon_v1"}),
        ("/v1/similar", {"item_id": "a", "k": 10}),
        ("/v1/sequence", {"user_id": "u", "service": "ctr_v1", "length": 2}),
    ]
    assert not any("authorization" in headers for _, headers, _ in server.asked)


def test_one_connection_serves_many_calls(connect, serve):
    server = serve(OK)
    with connect(server.url) as client:
        for _ in range(5):
            client.features("u", ["a"])
    assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Poison), (401, Misconfigured), (404, Misconfigured), (405, Misconfigured), (409, SpaceMismatch), (413, Poison),
     (422, Poison), (302, Misconfigured), (501, Misconfigured)],
)  # fmt: skip
def test_what_asking_again_does_not_change_is_asked_once(connect, serve, status, kind):
    server = serve(problem(status, "item_id: expected this, got that"))
    with connect(server.url) as client, pytest.raises(kind, match="expected this, got that") as caught:
        client.features("u", ["a"])
    assert type(caught.value) is kind and len(server.asked) == 1
    assert "/v1/features" in str(caught.value)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(connect, serve, status):
    server = serve(problem(status, "later"), problem(status, "later"), OK)
    with connect(server.url, timeout=10.0) as client:
        assert client.features("u", ["a"]).equals(TABLE)
    assert len(server.asked) == 3


def test_a_server_that_stays_busy_says_when_to_come_back(connect, serve):
    server = serve(problem(503, "busy", **{"retry-after": "7"}))
    with connect(server.url, timeout=0.5) as client, pytest.raises(Transient, match="busy") as caught:
        client.features("u", ["a"])
    assert isinstance(caught.value, Unavailable) and caught.value.retry_after == 7.0
    assert len(server.asked) == 1


@pytest.mark.parametrize("said", ["soon", "-1", "nan", "inf", "", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_left_out(connect, serve, said):
    server = serve(problem(503, "busy", **{"retry-after": said}))
    with (
        connect(server.url, timeout=5.0, patience=Patience(attempts=2, first_wait=0.001)) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.features("u", ["a"])
    assert caught.value.retry_after is None and len(server.asked) == 2


@pytest.mark.parametrize("broken", [hang_up, half])
def test_a_lost_connection_is_made_again(connect, serve, broken):
    server = serve(broken, OK)
    with connect(server.url, timeout=10.0) as client:
        assert client.features("u", ["a"]).equals(TABLE)
    assert len(server.asked) == 2


def answer_and_hang_up(handler):
    body = OK[1]
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (ARROW.encode(), len(body)) + body)
    handler.wfile.flush()
    hang_up(handler)


def test_a_connection_that_the_server_closed_while_it_was_idle_costs_no_attempt(connect, serve):
    server = serve(answer_and_hang_up, OK)
    with connect(server.url, timeout=10.0, patience=Patience(attempts=1)) as client:
        for _ in range(2):
            assert client.features("u", ["a"]).equals(TABLE)
            time.sleep(0.05)
    assert len(server.asked) == 2 and server.connections == 2


@pytest.mark.parametrize("broken", [drip, lambda handler: time.sleep(3.0)], ids=["drip", "silence"])
def test_the_deadline_holds_against_a_slow_server(connect, serve, broken):
    server = serve(broken)
    with connect(server.url, timeout=0.3) as client:
        start = time.monotonic()
        with pytest.raises(Unavailable, match="raise timeout"):
            client.features("u", ["a"])
        assert 0.25 < time.monotonic() - start < 2


@contextmanager
def swallowing(count):
    """Addresses that answer no connection: their queues are full."""
    with ExitStack() as held:
        places = []
        for _ in range(count):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            places.append(listener.getsockname())
            for _ in range(3):
                caller = held.enter_context(socket.socket())
                caller.setblocking(False)
                with suppress(BlockingIOError):
                    caller.connect(listener.getsockname())
        yield [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]


@pytest.mark.parametrize("live", [False, True])
def test_the_deadline_is_one_for_all_addresses_of_a_name(serve, monkeypatch, live):
    server = serve(OK)
    last = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(server.url.rpartition(":")[2])))
    with swallowing(4) as places:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [*places, last] if live else places)
        start = time.monotonic()
        with Client("http://many.example:1", timeout=0.8) as client, nullcontext() if live else pytest.raises(Unavailable):
            client.features("u", ["a"])
        # Four addresses with a deadline each would take 3.2 s.
        assert time.monotonic() - start < 2


def test_a_host_that_is_none_is_said_at_once():
    for host in ("a..b", "x" * 70):
        with pytest.raises(Misconfigured, match="expected http:// or https:// with a host"):
            Client(f"http://{host}:80")


def test_nobody_listens(connect):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with connect(url, timeout=5.0) as client, pytest.raises(Unavailable, match=url) as caught:
        client.features("u", ["a"])
    assert caught.value.__cause__ is not None


def test_the_user_goes_to_the_next_server_and_stays_there_while_the_first_is_down(connect, serve):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    one, other = serve(OK), serve(OK)
    with connect([dead, one.url, other.url], timeout=10.0) as client:
        for n in range(30):
            for _ in range(2):
                client.features(f"u{n}", ["a"])
    at = [{pa.ipc.open_stream(body).schema.metadata[b"user_id"] for _, _, body in server.asked} for server in (one, other)]
    assert at[0].isdisjoint(at[1]) and len(at[0] | at[1]) == 30 and min(map(len, at)) >= 5


def test_what_is_no_moontide_server_is_named(connect, serve):
    server = serve((200, b"<html>Welcome to nginx!</html>", {"content-type": "text/html"}))
    with connect(server.url) as client, pytest.raises(Misconfigured, match="text/html.*is that a moontide server"):
        client.features("u", ["a"])


@pytest.mark.parametrize("body", [b"", OK[1][:-40], b"\xff\xff\xff\xff\xf0\xff\xff\x7f" + b"\0" * 64])
def test_a_broken_arrow_stream_is_an_error_of_ours(connect, serve, body):
    server = serve((200, body, {"content-type": ARROW}))
    with connect(server.url) as client, pytest.raises(Misconfigured, match="expected an Arrow stream"):
        client.features("u", ["a"])


def test_a_problem_that_is_no_json_is_shown_as_it_is_and_shortened(connect, serve):
    server = serve((422, b"{" + b"z" * 5_000, {"content-type": "application/problem+json"}))
    with connect(server.url) as client, pytest.raises(Poison) as caught:
        client.features("u", ["a"])
    assert len(str(caught.value)) < 500


def test_wrong_arguments_cost_no_request(connect, serve):
    server = serve(OK)
    with connect(server.url) as client:
        for user, ids, kind in (
            ("u", "abc", TypeError),
            ("u", 7, TypeError),
            ("u", [1], Poison),
            ("a b", ["a"], Poison),
            ("", [], Poison),
        ):
            with pytest.raises(kind):
                client.features(user, ids)
    assert server.asked == []


@pytest.mark.parametrize("token", ["", "a\r\nX-Evil: 1", "é"])
def test_a_token_that_fits_in_no_header_is_refused_and_not_shown(connect, token):
    with pytest.raises(Misconfigured) as caught:
        connect("http://127.0.0.1:1", token=token)
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"body", b"x" * 300_000])
def test_a_request_leaves_in_one_piece_and_nothing_of_it_is_kept(body):
    class Socket:
        sent = []

        def sendall(self, data):
            self.sent.append(bytes(data))

    connection = _Connection("localhost", 1)
    connection.sock = Socket()
    connection.post("/p", {"content-type": "x/y"}, body)
    (whole,) = Socket.sent
    head, _, rest = whole.partition(b"\r\n\r\n")
    assert rest == body and head.startswith(b"POST /p HTTP/1.1\r\n") and f"Content-Length: {len(body)}".encode() in head
    assert connection._pieces == []
