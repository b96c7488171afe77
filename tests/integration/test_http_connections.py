"""Connections as callers really make them: upgrades asked for, heads without end, bytes after the answer."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from serving.http.protocol import guarded
from tests.integration.http_callers import (
    GET,
    HEADER_SECONDS,
    PATIENT_SECONDS,
    answering,
    answers,
    connected,
    connects,
    ends,
    post,
    served,
)

pytestmark = pytest.mark.integration
BODY = b'{"user_id": "u"}'
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"

port = served(PATIENT_SECONDS)
caller = connects("port")
strict_port = served(HEADER_SECONDS)
hurried = connects("strict_port")


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
def test_bytes_after_an_answer_hold_no_connection(hurried, after):
    hurried.sendall(post(b"x" * 1000, path=b"/early")[:-500] if after == b"x" else GET)
    assert answers(hurried, 1)[0][0] == 200
    for _ in range(3):
        hurried.sendall(after)
        time.sleep(0.05)
    assert ends(hurried, 5 * HEADER_SECONDS)


def test_the_rest_of_a_body_that_is_not_wanted_is_taken_and_the_connection_kept(hurried):
    whole = post(b"x" * 1_000_000, path=b"/early")
    hurried.sendall(whole[:1000])
    assert answers(hurried, 1)[0][0] == 200
    hurried.sendall(whole[1000:])
    time.sleep(0.8 * HEADER_SECONDS)
    hurried.sendall(GET[:10])
    time.sleep(0.5 * HEADER_SECONDS)
    hurried.sendall(GET[10:])
    assert answers(hurried, 1)[0][0] == 200


def test_a_rest_without_end_is_not(hurried):
    hurried.sendall(post(b"", path=b"/early").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    assert answers(hurried, 1)[0][0] == 200
    chunk, began = b"100000\r\n" + b" " * (1 << 20) + b"\r\n", time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011 - reset or pipe
        for _ in range(200):
            hurried.sendall(chunk)
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


def test_a_connection_is_used_again_for_as_long_as_it_is(hurried):
    for _ in range(4):
        hurried.sendall(GET)
        assert answers(hurried, 1)[0][0] == 200
        time.sleep(0.4 * HEADER_SECONDS)


def test_a_server_that_ends_closes_each_connection_with_its_next_answer():
    told = []
    with (
        answering(guarded(header_seconds=PATIENT_SECONDS, most_connections=50, ending=lambda: bool(told))) as port,
        connected(port) as caller,
    ):
        caller.sendall(GET)
        assert answers(caller, 1)[0][0] == 200
        told.append(True)
        caller.sendall(GET)
        head, _, body = b"".join(iter(lambda: caller.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"\r\nconnection: close" in head and body


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
