"""``python -m serving`` as a process: workers over LMDB, kills, the end of it, TLS, tokens, slow callers."""

import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from moontide import Misconfigured
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.exposure import require_safe
from serving.site_files import SiteFiles
from tests.serving_site import ROOT, ServingSite
from tests.unit.serving.http_site import TOML, fill

pytestmark = pytest.mark.integration
ARROW = "application/vnd.apache.arrow.stream"
BODY = {"user_id": "u", "item_ids": ["a", "nobody", "b"]}


def make(folder, **settings):
    """A filled LMDB site, not started."""
    site = ServingSite(folder, TOML, settings={"lmdb_map_size": 1 << 24, **settings})
    store = online_store(Settings(home=site.home, lmdb_map_size=1 << 24))
    fill(store, load_spaces(site.repo / "spaces.toml"))
    store.close()
    return site


def connect(site, tls=None):
    if tls is None:
        return http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    return http.client.HTTPSConnection("localhost", site.port, timeout=30, context=tls)


def ask(connection, body=BODY, path="/v1/features", **headers):
    """Status, headers and body."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    log = tmp_path_factory.mktemp("log")
    made = make(
        tmp_path_factory.mktemp("site"), serving_body_seconds=1, serving_max_body_bytes=2048,
        serving_log_folder=log, serving_log_rate=1, serving_seconds=20,
    )  # fmt: skip
    made.request_log = log
    with made.start(workers=2):
        yield made


def expected(site):
    live = load_spaces(site.repo / "spaces.toml")
    with RankingClient(online_store(Settings(home=site.home, lmdb_map_size=1 << 24)), live) as client:
        return client.features(BODY["user_id"], BODY["item_ids"])


def test_two_workers_give_the_values_of_the_client(site):
    want = expected(site)
    assert len(site.children()) == 2
    for _ in range(6):
        connection = connect(site)
        status, _, body = ask(connection, Accept=ARROW)
        assert status == 200 and pa.ipc.open_stream(body).read_all().equals(want)
        connection.close()


def test_a_killed_worker_is_replaced_and_nobody_waits_for_it(site):
    before = site.children()
    os.kill(before[0], signal.SIGKILL)
    began, answered = time.monotonic(), 0
    while time.monotonic() - began < 60:
        connection = connect(site)
        try:
            assert ask(connection)[0] == 200
            answered += 1
        except (OSError, http.client.HTTPException):
            # A connection that the killed one had taken already.
            assert time.monotonic() - began < 10
        connection.close()
        now = site.children()
        if len(now) == 2 and before[0] not in now and answered >= 20:
            break
        time.sleep(0.02)
    assert before[1] in now and len(now) == 2 and before[0] not in now


def test_metrics_are_those_of_all_workers(site):
    for _ in range(10):
        connection = connect(site)
        assert ask(connection)[0] == 200
        connection.close()
    pages = []
    for _ in range(3):
        connection = connect(site)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        pages.append(dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#")))
        connection.close()
    counted = [float(page['moontide_serving_requests_total{route="/v1/features",status="200"}']) for page in pages]
    assert counted[0] == counted[1] == counted[2] >= 10
    kernels = [value for name, value in pages[0].items() if name.startswith("moontide_serving_kernel_info")]
    assert sum(map(float, kernels)) <= 2


def test_slow_and_broken_callers_hold_up_nobody(site):
    with (
        socket.create_connection(("127.0.0.1", site.port)) as silent,
        socket.create_connection(("127.0.0.1", site.port)) as half,
        socket.create_connection(("127.0.0.1", site.port)) as unfinished,
        socket.create_connection(("127.0.0.1", site.port)) as strange,
        socket.create_connection(("127.0.0.1", site.port)) as endless,
    ):
        half.sendall(b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\n")
        head = b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        unfinished.sendall(head + b"Content-Length: 100\r\n\r\n{")
        strange.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        endless.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n")
        endless.sendall((b"400\r\n" + b" " * 1024 + b"\r\n") * 2)
        connection = connect(site)
        assert ask(connection)[0] == 200
        connection.close()
        for each in (silent, half, unfinished, strange, endless):
            each.settimeout(15)
        assert silent.recv(100) == b"" and half.recv(100) == b""
        assert received(unfinished).startswith(b"HTTP/1.1 408")
        said = received(strange)
        assert said.startswith(b"HTTP/1.1 400") and b"application/problem+json" in said
        assert received(endless).startswith(b"HTTP/1.1 413")


def test_a_connection_ends_after_a_thousand_requests(site):
    connection = connect(site)
    for at in range(1_000):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        assert (answer.headers.get("connection") == "close") == (at == 999)
    connection.close()


def received(caller):
    parts = b""
    while part := caller.recv(65_536):
        parts += part
    return parts


def refused(port, within):
    """Return once nobody listens on `port`."""
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            # The listener closed between this caller's handshake and its accept.
            continue
        time.sleep(0.01)
    raise AssertionError(f"port {port} still open {within} s after SIGTERM")


def test_sigterm_drains_writes_the_log_and_leaves_nothing(site):
    """The last test of this site."""

    def call(stop_at):
        answered, connection = 0, connect(site)
        while time.monotonic() < stop_at:
            try:
                status, _, body = ask(connection)
            except (OSError, http.client.HTTPException):
                # The server is gone, or closed a connection between two requests.
                break
            assert status == 200 and json.loads(body)
            answered += 1
        return answered

    with (
        socket.create_connection(("127.0.0.1", site.port)) as running,
        concurrent.futures.ThreadPoolExecutor(4) as callers,
    ):
        counts = [callers.submit(call, time.monotonic() + 30) for _ in range(4)]
        time.sleep(0.5)
        below = site.children()
        running.sendall(b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
        os.kill(site.pid, signal.SIGTERM)
        refused(site.port, within=10)
        running.setblocking(False)
        with pytest.raises(BlockingIOError):
            running.recv(1)
        served = sum(count.result() for count in counts)
    site.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in below)
    assert ds.dataset(site.request_log, format="parquet").count_rows() >= served > 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for localhost, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.fail("openssl: expected on PATH, got none; apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_a_token_file_that_changes_and_tables_in_memory(tmp_path, certificate):
    cert, key = certificate
    tokens = tmp_path / "tokens"
    tokens.write_text("first-token-of-all\n")
    site = make(tmp_path / "site", serving_tls_cert=cert, serving_tls_key=key, serving_token_file=tokens, serving_table="on")
    trusted = ssl.create_default_context(cafile=str(cert))
    site.tls = trusted
    with site.start():
        connection = connect(site, trusted)
        assert ask(connection)[0] == 401
        assert ask(connection, Authorization="Bearer first-token-of-all")[0] == 200
        tokens.write_text("another-token-now\n")
        time.sleep(1.5)
        assert ask(connection, Authorization="Bearer first-token-of-all")[0] == 401
        status, _, body = ask(connection, Authorization="Bearer another-token-now", Accept=ARROW)
        assert status == 200 and pa.ipc.open_stream(body).read_all().equals(expected(site))
        connection.request("GET", "/metrics", headers={"Authorization": "Bearer another-token-now"})
        page = connection.getresponse().read().decode()
        lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        assert lines['moontide_serving_table_rows{space="moon_v1"}'] == "4.0"
        assert lines['moontide_serving_table_loaded{space="moon_v1"}'] == "1.0"
        assert 0 <= float(lines['moontide_serving_table_staleness_seconds{space="moon_v1"}']) < 600
        assert float(lines['moontide_serving_vector_reads_total{source="table",space="moon_v1"}']) > 0
        connection.close()
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(connect(site))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"serving_host": "0.0.0.0"}, "MOONTIDE_SERVING_TOKENS"),
        ({"serving_host": "0.0.0.0", "serving_tokens": "t" * 16}, "MOONTIDE_SERVING_TLS_CERT"),
        ({"serving_tokens": "short"}, "16 or more"),
        ({"serving_tls_cert": "/nowhere"}, "MOONTIDE_SERVING_TLS_KEY"),
        ({"serving_tls_cert": "/nowhere", "serving_tls_key": "/nowhere"}, "PEM"),
        ({"serving_token_file": "/nowhere"}, "MOONTIDE_SERVING_TOKEN_FILE"),
    ],
)
def test_unsafe_settings_are_refused(settings, said):
    with pytest.raises(Misconfigured, match=said):
        require_safe(Settings(**settings))


def test_safe_settings_are_not(certificate):
    cert, key = certificate
    for settings in (
        {},
        {"serving_host": "::1"},
        {"serving_host": "0.0.0.0", "serving_tokens": "t" * 16, "serving_plaintext": True},
        {"serving_host": "10.0.0.1", "serving_tokens": "t" * 16, "serving_tls_cert": cert, "serving_tls_key": key},
    ):
        require_safe(Settings(**settings))


def test_a_set_up_that_is_wrong_ends_it_with_one_line(tmp_path):
    command = [sys.executable, "-m", "serving", "--host", "0.0.0.0", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MOONTIDE_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "MOONTIDE_SERVING_TOKENS" in done.stderr and done.stderr.count("\n") == 1


def test_a_site_whose_spaces_are_wrong_is_misconfigured(tmp_path):
    (tmp_path / "spaces.toml").write_text("[[service]]\nname = 3\n")
    with pytest.raises(Misconfigured, match=r"spaces\.toml"):
        SiteFiles(Settings(home=tmp_path), tmp_path / "spaces.toml").open()
    assert not (tmp_path / "online").exists()
