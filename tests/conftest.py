"""Services that tests share: each is the real program, started on a free loopback port in a folder of its own."""

import shutil
import socket
import subprocess
import time

# Before Feast, which switches it to files that all registries of a machine share.
import prometheus_client.values  # noqa: F401
import pytest
from hypothesis import settings

from tests.kafka_broker import KafkaBroker, missing

# One commit, one verdict. `make properties` draws other examples.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", max_examples=500)
settings.load_profile("same")


class RedisServer:
    """A `redis-server` that a test may kill and start again on its port; without persistence unless `options` say otherwise."""

    def __init__(self, folder, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process = None

    def start(self):
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        command += self._options
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"redis-server did not answer on port {self.port} within 20 s")

    def stop(self):
        self._process.kill()
        self._process.wait()


def _require_redis():
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server: expected on PATH, got none; apt-get install redis-server")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """URL of a Redis server for the whole session; use key names of your own."""
    _require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.stop()


@pytest.fixture
def redis_server(tmp_path):
    """A `RedisServer` of this test alone, running."""
    _require_redis()
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


def _require_kafka():
    problem = missing()
    if problem:
        pytest.fail(problem)


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory):
    """A Kafka broker for the whole session; use topics and groups of your own."""
    _require_kafka()
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka")).start()
    yield broker
    broker.kill()


@pytest.fixture
def own_kafka_broker(tmp_path):
    """A `KafkaBroker` of this test alone, running."""
    _require_kafka()
    broker = KafkaBroker(tmp_path / "kafka").start()
    yield broker
    broker.kill()
