"""Requests that wait for no answer, and callers that take none."""

import asyncio
import contextlib
import socket
import threading

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.http.protocol import guarded
from tests.integration.http_callers import (
    GET,
    HEADER_SECONDS,
    PATIENT_SECONDS,
    answering,
    answers,
    app,
    connects,
    ends,
    post,
    served,
)

pytestmark = pytest.mark.integration

port = served(PATIENT_SECONDS)
caller = connects("port")


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
