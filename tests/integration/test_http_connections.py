"""Connections as callers really make them: upgrades asked for, heads without end, bytes after the answer."""

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.http.protocol import guarded
from serving.http.tls import TimedConfig

pytestmark = pytest.mark.integration
HEADER_SECONDS = 0.6
BODY = b'{"user_id": "u"}'
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    """Says how it was asked; ``/early`` answers before the body is here."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    said = {"method": scope["method"], "path": scope["path"], "bytes": len(body), "headers": headers}
    content = json.dumps(said).encode()
    length = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": content})


@pytest.fixture(scope="module")
def port():
    protocol = guarded(header_seconds=HEADER_SECONDS, most_connections=50)
    with answering(protocol) as port:
        yield port


@contextlib.contextmanager
def answering(protocol, app=app, **settings):
    config = TimedConfig(app, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=30, **settings)
    config.tls_seconds = HEADER_SECONDS
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def caller(port):
    with socket.create_connection(("127.0.0.1", port)) as made:
        made.settimeout(10)
        yield made


def answers(caller, count):
    """So many answers: status and the JSON of each."""
    found = []
    file = caller.makefile("rb")
    for _ in range(count):
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        found.append((status, json.loads(file.read(length))))
    return found


def ends(caller, seconds):
    """Whether the other side ends the connection within `seconds`."""
    caller.settimeout(seconds)
    try:
        while caller.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def post(body, more=b"", path=b"/"):
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, more, len(body), body)


@pytest.mark.parametrize("how", ["at once", "later", "by byte", "chunked", "large"])
def test_an_upgrade_that_is_not_made_leaves_the_request_as_it_is(caller, how):
    body = b" " * 900_000 if how == "large" else BODY
    whole = post(body, H2C)
    if how == "chunked":
        whole = b"POST / HTTP/1.1\r\nHost: x\r\n" + H2C + b"Transfer-Encoding: chunked\r\n\r\n"
        whole += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = whole.index(b"\r\n\r\n") + 4
    parts = {"later": [whole[:head], whole[head:]], "by byte": [bytes([one]) for one in whole]}.get(how, [whole])
    for part in parts:
        caller.sendall(part)
        time.sleep(0.05 if how == "later" else 0)
    caller.sendall(GET)
    (first, said), (second, after) = answers(caller, 2)
    assert first == second == 200 and said["method"] == "POST" and said["bytes"] == len(body) and after["method"] == "GET"
    assert "upgrade" not in said["headers"] and said["headers"]["host"] == "x" and after["headers"] == {"host": "x"}


def test_upgrades_one_after_the_other(caller):
    asked = b"GET /%d HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    caller.sendall(b"".join(asked % at for at in range(300)) + post(BODY, H2C))
    found = answers(caller, 301)
    assert [said["path"] for _, said in found] == [f"/{at}" for at in range(300)] + ["/"]
    assert found[-1][1]["bytes"] == len(BODY)


@pytest.mark.parametrize(
    "said",
    [
        b"CONNECT h:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n",
    ],
)
def test_what_is_no_request_is_malformed(caller, said):
    caller.sendall(said)
    assert answers(caller, 1)[0][0] == 400 and ends(caller, 2)


@pytest.mark.parametrize("after", [b"x", b"\r\n"])
def test_bytes_after_an_answer_hold_no_connection(caller, after):
    caller.sendall(post(b"x" * 1000, path=b"/early")[:-500] if after == b"x" else GET)
    assert answers(caller, 1)[0][0] == 200
    for _ in range(3):
        caller.sendall(after)
        time.sleep(0.05)
    assert ends(caller, 5 * HEADER_SECONDS)


def test_the_rest_of_a_body_that_is_not_wanted_is_taken_and_the_connection_kept(caller):
    whole = post(b"x" * 1_000_000, path=b"/early")
    caller.sendall(whole[:1000])
    assert answers(caller, 1)[0][0] == 200
    caller.sendall(whole[1000:])
    time.sleep(0.8 * HEADER_SECONDS)
    caller.sendall(GET[:10])
    time.sleep(0.5 * HEADER_SECONDS)
    caller.sendall(GET[10:])
    assert answers(caller, 1)[0][0] == 200


def test_a_rest_without_end_is_not(caller):
    caller.sendall(post(b"", path=b"/early").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    assert answers(caller, 1)[0][0] == 200
    chunk, began = b"100000\r\n" + b" " * (1 << 20) + b"\r\n", time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011 - reset or pipe
        for _ in range(200):
            caller.sendall(chunk)
    assert time.monotonic() - began < 5 * HEADER_SECONDS


def test_heads_are_bounded(caller, port):
    head = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
    for _ in range(3):
        caller.sendall(head + b"a" * 60_000 + b"\r\n\r\n")
        assert answers(caller, 1)[0][0] == 200
    caller.sendall(head)
    with contextlib.suppress(OSError):
        for _ in range(20):
            caller.sendall(b"a" * (1 << 20))
        pytest.fail("expected the connection cut, got 20 MB taken")
    with socket.create_connection(("127.0.0.1", port)) as other:
        other.sendall(head)
        time.sleep(0.05)
        for _ in range(7):
            other.sendall(b"a" * 10_000)
            time.sleep(0.01)
        status, said = answers(other, 1)[0]
    assert status == 413 and said["type"] == "urn:moontide:too-large"


def test_a_body_sent_before_the_next_head_does_not_count_as_one(caller):
    caller.sendall(post(b"x" * 200_000) + GET[:5])
    for at in range(5, len(GET)):
        caller.sendall(GET[at : at + 1])
        time.sleep(0.005)
    assert [status for status, _ in answers(caller, 2)] == [200, 200]


def test_a_connection_is_used_again_for_as_long_as_it_is(caller):
    for _ in range(4):
        caller.sendall(GET)
        assert answers(caller, 1)[0][0] == 200
        time.sleep(0.4 * HEADER_SECONDS)


class Counted(guarded(header_seconds=HEADER_SECONDS, most_connections=50)):
    """Notes how many requests of a connection waited for their turn, and how many there were."""

    waited = most = 0

    def data_received(self, data):
        super().data_received(data)
        Counted.waited, Counted.most = max(Counted.waited, len(self.pipeline)), max(Counted.most, self._requests)


def flooded(port, request, most=200 << 20):
    """Send a request over and over, and read nothing: bytes sent when the other side ended it."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port)) as flood:
        flood.settimeout(5 * HEADER_SECONDS)
        with contextlib.suppress(ConnectionError):
            while sent < most:
                sent += flood.send(request)
    return sent


def test_requests_without_end_are_neither_kept_nor_answered():
    Counted.waited = 0
    with answering(Counted) as port:
        for request in (GET, b"GET /\r\n\r\n", GET[:-2] + b"A: " + b"a" * 20_000 + b"\r\n\r\n"):
            assert flooded(port, request * 1_000) < 50 << 20
    assert 0 < Counted.waited < 150


def test_requests_beyond_the_last_of_a_connection_are_not_begun():
    asked = b"".join(post(b"x" * 10, path=b"/%d" % at) for at in range(200))
    Counted.most = 0
    with answering(type("Few", (Counted,), {"most_requests": 50})) as port:
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.settimeout(10)
            caller.sendall(asked)
            found = answers(caller, 50)
            assert ends(caller, 5)
    assert [said["path"] for _, said in found] == [f"/{at}" for at in range(50)]
    assert {said["bytes"] for _, said in found} == {10} and Counted.most == 50


@pytest.mark.parametrize("size", [0, 700, 5_000, 100_000])
def test_requests_that_wait_for_no_answer_are_all_answered_in_order(caller, size):
    asked = b"".join(post(b"x" * (size + at % 50), path=b"/%d" % at) for at in range(200))
    sender = threading.Thread(target=caller.sendall, args=(asked,))
    sender.start()
    found = answers(caller, 200)
    sender.join(10)
    assert [(said["path"], said["bytes"]) for _, said in found] == [(f"/{at}", size + at % 50) for at in range(200)]
    caller.sendall(GET)
    assert answers(caller, 1)[0][0] == 200


def test_a_head_that_is_half_here_is_not_late_while_those_before_it_are_answered():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.8 * HEADER_SECONDS)
        await app(scope, receive, send)

    with answering(Counted, app=slow) as port, socket.create_connection(("127.0.0.1", port)) as caller:
        caller.settimeout(10)
        whole = GET * 3
        caller.sendall(whole[:-5])
        assert [status for status, _ in answers(caller, 2)] == [200, 200]
        caller.sendall(whole[-5:])
        assert answers(caller, 1)[0][0] == 200


class NotTaken(asyncio.Transport):
    """A connection that closes once the other side takes what is buffered, which it never does."""

    def __init__(self):
        super().__init__()
        self.done = []

    def write(self, data):
        pass

    def get_write_buffer_size(self):
        return 1_000

    def is_closing(self):
        return bool(self.done)

    def close(self):
        self.done.append("close")

    def abort(self):
        self.done.append("abort")


@pytest.mark.parametrize("said", [GET[:-2] + b"Connection: close\r\n\r\n", b"nonsense\r\n\r\n", b"GET"])
def test_a_connection_that_ends_does_not_wait_for_a_caller_that_takes_nothing(said):
    async def run():
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
        made = guarded(header_seconds=0.02, most_connections=50)(config, ServerState(), {}, asyncio.get_running_loop())
        transport = NotTaken()
        made.connection_made(transport)
        made.data_received(said)
        for _ in range(100):
            if "abort" in transport.done:
                break
            await asyncio.sleep(0.01)
        return transport.done

    assert asyncio.run(run()) == ["close", "abort"]


def test_tls_that_is_never_spoken_holds_no_connection(tmp_path):
    if shutil.which("openssl") is None:
        pytest.fail("openssl: expected on PATH, got none; apt-get install openssl")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": str(tmp_path / "key.pem")}
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with answering(guarded(header_seconds=HEADER_SECONDS, most_connections=50), **files) as port, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(60)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00")
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        with trusted.wrap_socket(plain, server_hostname="localhost") as caller:
            caller.settimeout(10)
            caller.sendall(GET)
            assert answers(caller, 1)[0][0] == 200
        assert all(ends(each, 5 * HEADER_SECONDS) for each in silent)
