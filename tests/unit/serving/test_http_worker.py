"""A worker's beginning and end, with everything that it opens replaced."""

import signal
import socket
import sys
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from moontide import Misconfigured, Transient
from moontide.settings import Settings
from serving.__main__ import _bound
from serving.http import worker
from tests.unit.serving.http_site import opened

pytestmark = pytest.mark.unit


@pytest.fixture
def told(monkeypatch):
    """What was done, in order; nothing listens, and no signal is taken."""
    done = []
    before = sys.getswitchinterval()
    monkeypatch.setattr(worker, "_Told", lambda: SimpleNamespace(run=lambda *_: done.append("run")))
    for part, name in (
        (worker.RequestLog, "flush"),
        (worker.RequestLog, "close"),
        (worker.Site, "close"),
        (worker.Console, "close"),
    ):
        monkeypatch.setattr(part, name, noted(done, part, name))
    yield done
    sys.setswitchinterval(before)


@pytest.fixture
def signals():
    """Handlers are as before, in the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def noted(done, part, name):
    really = getattr(part, name)

    def call(self):
        done.append(f"{part.__name__}.{name}")
        really(self)

    return call


def test_what_waits_for_the_log_is_written_before_anything_is_waited_for(told, tmp_path):
    client, live = opened(tmp_path)
    settings = Settings(home=tmp_path, serving_log_folder=str(tmp_path / "log"))
    files = SimpleNamespace(settings=settings, open=lambda: (client.online, live))
    worker.serve(files, None, None)
    assert told[:2] == ["run", "RequestLog.flush"] and set(told[2:]) >= {"Site.close", "Console.close", "RequestLog.close"}
    assert told.index("RequestLog.close") > max(told.index("Site.close"), told.index("Console.close"))


def test_a_worker_that_cannot_open_its_stores_counts_nothing(told, tmp_path, monkeypatch):
    def broken():
        raise Transient("store: expected an answer, got none")

    made = []
    monkeypatch.setattr(worker, "Metrics", made.append)
    with pytest.raises(Transient):
        worker.serve(SimpleNamespace(settings=Settings(home=tmp_path), open=broken), None, tmp_path)
    assert not made and told == []


def test_a_worker_names_the_file_that_went_bad_since_the_start(told, tmp_path):
    file = tmp_path / "cert.pem"
    file.write_text("cut")
    files = SimpleNamespace(settings=Settings(home=tmp_path, serving_tls_cert=file, serving_tls_key=file), open=told.append)
    with pytest.raises(Misconfigured, match="TLS: expected a PEM certificate .*cert.pem"):
        worker.serve(files, None, None)
    assert told == []


@pytest.mark.parametrize(("tokens", "local"), [("", True), ("t" * 16, False)])
def test_without_tokens_only_this_machine_is_answered(told, tmp_path, monkeypatch, tokens, local):
    client, live = opened(tmp_path)
    sites = []
    monkeypatch.setattr(worker, "TimedConfig", lambda app, **_: sites.append(app) or SimpleNamespace())
    monkeypatch.setattr(worker.uvicorn, "Server", lambda _: None)
    files = SimpleNamespace(settings=Settings(home=tmp_path, serving_tokens=tokens), open=lambda: (client.online, live))
    worker.serve(files, None, None)
    answer = TestClient(sites[0]).get("/healthz", headers={"Host": "evil.example"})
    assert answer.status_code == (421 if local else 200)


def test_a_worker_that_is_told_while_it_opens_its_stores_ends_at_once(signals, tmp_path):
    opened = []

    def told():
        signal.raise_signal(signal.SIGTERM)
        opened.append(True)

    with pytest.raises(SystemExit) as ended:
        worker.serve(SimpleNamespace(settings=Settings(home=tmp_path), open=told), None, None)
    assert ended.value.code == 0 and not opened


def test_a_worker_that_is_told_while_it_answers_says_so_to_its_connections(signals, tmp_path, monkeypatch):
    client, live = opened(tmp_path)
    seen = []

    class Server:
        should_exit = False

        def __init__(self, config):
            self.config = config

        def run(self, _):
            seen.append(self.config.http.ending())
            self.should_exit = True
            seen.append(self.config.http.ending())
            signal.raise_signal(signal.SIGTERM)
            seen.append("went on")

    monkeypatch.setattr(worker.uvicorn, "Server", Server)
    with _bound("127.0.0.1", 0) as listening:
        worker.serve(SimpleNamespace(settings=Settings(home=tmp_path), open=lambda: (client.online, live)), listening, None)
    assert seen == [False, True, "went on"]


@pytest.fixture
def answers():
    """A uvicorn that notes whether its port is open."""
    seen = []

    def run(sockets):
        with socket.create_connection(sockets[0].getsockname(), timeout=10):
            seen.append("open")

    return SimpleNamespace(run=run, should_exit=False, seen=seen)


def test_a_port_refuses_until_a_worker_answers_there(signals, answers):
    with _bound("127.0.0.1", 0) as listening:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listening.getsockname(), timeout=10)
        worker._Told().run(answers, listening)
        assert answers.seen == ["open"]
        with pytest.raises(Misconfigured, match="expected a free port to listen on, got .*MOONTIDE_SERVING_PORT"):
            _bound(*listening.getsockname())


def test_of_two_servers_that_took_one_port_the_slower_ends(signals, answers):
    with _bound("127.0.0.1", 0) as first, _bound("127.0.0.1", first.getsockname()[1]) as second:
        worker._Told().run(answers, first)
        with pytest.raises(Misconfigured, match="another server was faster"):
            worker._Told().run(answers, second)
    assert answers.seen == ["open"]
