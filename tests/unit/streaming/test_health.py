"""What probes and Prometheus get, and what nobody gets."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from moontide.errors import Misconfigured
from streaming.health import MOST_CLIENTS, HealthServer
from streaming.metrics import Metrics

pytestmark = pytest.mark.unit


@pytest.fixture
def problems():
    return {"live": [], "ready": []}


@pytest.fixture
def server(problems):
    def ready():
        if problems["ready"] == "broken":
            raise RuntimeError("secret detail")
        return problems["ready"]

    server = HealthServer("127.0.0.1", 0, live=lambda: problems["live"], ready=ready, metrics=Metrics())
    server.start()
    yield server
    server.close()


def ask(server, path, method="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, body=body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], text


def test_a_healthy_consumer_says_ok(server):
    assert ask(server, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert ask(server, "/readyz?verbose=1")[0] == 200


def test_problems_are_named_in_json(server, problems):
    problems["live"] = ["the loop last turned 300 s ago"]
    status, kind, text = ask(server, "/healthz")
    assert (status, kind, json.loads(text)) == (503, "application/json", {"problems": ["the loop last turned 300 s ago"]})
    assert ask(server, "/readyz")[0] == 200


def test_a_check_that_fails_is_a_problem_without_its_traceback(server, problems):
    problems["ready"] = "broken"
    status, _, text = ask(server, "/readyz")
    assert status == 503
    assert "RuntimeError" in text
    assert "secret" not in text


def test_metrics_are_served_as_prometheus_asks(server):
    status, kind, text = ask(server, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert "moontide_redriven_total 0.0" in text


def test_everything_else_is_not_found_or_not_allowed(server):
    assert ask(server, "/")[0] == 404
    assert ask(server, "/../../etc/passwd")[0] == 404
    assert ask(server, "/healthz", "POST", body=b"x" * 100_000)[0] == 501
    assert ask(server, "/healthz", "DELETE")[0] == 501


def test_head_has_no_body(server):
    status, _, text = ask(server, "/healthz", "HEAD")
    assert (status, text) == (200, "")


def test_what_is_no_http_gets_no_echo(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"<script>canary</script> \r\n\r\n")
        answer = client.recv(4096)
    assert b"canary" not in answer
    assert b"Traceback" not in answer


def test_silent_clients_do_not_use_up_the_process(server):
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(MOST_CLIENTS)]
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(server, "/healthz")
    for client in idle:
        client.close()


def test_a_taken_port_is_a_clear_error(server):
    second = HealthServer("127.0.0.1", server.port, live=list, ready=list, metrics=Metrics())
    with pytest.raises(Misconfigured, match="MOONTIDE_STREAM_PORT"):
        second.start()
    second.close()


def test_a_host_of_another_machine_is_a_clear_error():
    with pytest.raises(Misconfigured, match="MOONTIDE_STREAM_HOST"):
        HealthServer("192.0.2.1", 0, live=list, ready=list, metrics=Metrics()).start()


def test_after_close_nobody_listens_and_the_port_is_known(server):
    port = server.port
    server.close()
    server.close()
    assert server.port == port
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
