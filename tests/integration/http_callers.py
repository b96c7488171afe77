"""A small app behind the server's own HTTP, and callers that write bytes."""

import contextlib
import json
import socket
import threading
import time

import pytest
import uvicorn

from serving.http.protocol import guarded
from serving.http.tls import TimedConfig

#: The limit of tests about it; all others have `PATIENT_SECONDS`, which no busy machine uses up.
HEADER_SECONDS = 1.2
PATIENT_SECONDS = 30
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


@contextlib.contextmanager
def connected(port):
    """A connection that waits ten seconds for whatever it is sent."""
    with socket.create_connection(("127.0.0.1", port)) as made:
        made.settimeout(10)
        yield made


def served(header_seconds):
    """A fixture: the port of a server with that limit, for the tests of a module."""

    @pytest.fixture(scope="module")
    def port():
        with answering(guarded(header_seconds=header_seconds, most_connections=50)) as port:
            yield port

    return port


def connects(port):
    """A fixture: a connection to the server of the fixture named `port`."""

    @pytest.fixture
    def caller(request):
        with connected(request.getfixturevalue(port)) as made:
            yield made

    return caller
