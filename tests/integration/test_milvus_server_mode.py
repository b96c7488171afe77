"""Two processes share a milvus-lite file through its server on loopback; settings choose file or server."""

import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Transient
from moontide.settings import Settings
from moontide.stores import vector_index
from moontide.stores.index import MilvusIndex

pytestmark = pytest.mark.integration

SPACE = EmbeddingSpace("moon", 1, 16, "sha256:" + "0" * 64)
WRITER = """
import sys
import numpy as np
from moontide import Embeddings, EmbeddingSpace
from moontide.stores.index import MilvusIndex
space = EmbeddingSpace("moon", 1, 16, "sha256:" + "0" * 64)
index = MilvusIndex(sys.argv[1])
index.ensure(space)
for batch in range(10):
    ids = [f"{sys.argv[2]}.{batch}.{n}" for n in range(20)]
    vectors = np.random.default_rng(batch).normal(size=(20, 16))
    index.upsert(space, Embeddings.from_float(space, vectors, ids=ids), [bytes(40)] * 20)
index.flush(space)
index.close()
"""


def wait_for(port, process):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


@pytest.fixture
def server(tmp_path):
    """start() -> URI of a milvus-lite server on `tmp_path`; stop() kills it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    class Server:
        uri, process = f"http://127.0.0.1:{port}", None

        def start(self):
            command = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(tmp_path / "index.db")]
            self.process = subprocess.Popen([sys.executable, "-m", "milvus_lite", "server", *command], stdout=subprocess.DEVNULL)
            wait_for(port, self.process)

        def stop(self):
            self.process.kill()
            self.process.wait()

    made = Server()
    made.start()
    yield made
    made.stop()


def test_two_processes_write_and_a_third_reads(server):
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), server.uri, name]) for name in ("a", "b")]
    assert [w.wait(timeout=120) for w in writers] == [0, 0]
    index = MilvusIndex(server.uri)
    try:
        index.ensure(SPACE)
        assert index.count(SPACE) == 400
        query = Embeddings.from_float(SPACE, np.random.default_rng(3).normal(size=(20, 16))[:1])
        assert sorted(index.search(SPACE, query, 2).ids[0]) == ["a.3.0", "b.3.0"]
    finally:
        index.close()


def test_a_server_that_dies_is_transient_and_loses_nothing_flushed(server):
    index = MilvusIndex(server.uri, timeout=3.0)
    try:
        index.ensure(SPACE)
        rows = Embeddings.from_float(SPACE, np.random.default_rng(0).normal(size=(2, 16)), ids=["a", "b"])
        index.upsert(SPACE, rows, [bytes(40)] * 2)
        index.flush(SPACE)
        server.stop()
        for call in (lambda: index.count(SPACE), lambda: index.upsert(SPACE, rows, [bytes(40)] * 2)):
            with pytest.raises(Transient):
                call()
        server.start()
        for attempt in range(20):
            try:
                assert index.count(SPACE) == 2
                break
            except Transient:
                assert attempt < 19
                time.sleep(0.5)
        index.upsert(SPACE, rows, [bytes([1]) * 40] * 2)
        assert index.tokens(SPACE, ["a"]) == [bytes([1]) * 40]
    finally:
        index.close()


def test_settings_choose_the_file_in_the_home_folder(tmp_path):
    index = vector_index(Settings(home=tmp_path / "home"))
    index.ensure(SPACE)
    index.close()
    assert (tmp_path / "home" / "index.db" / "collections" / "items__moon_v1").is_dir()


def test_no_server_is_transient():
    with pytest.raises(Transient, match="127.0.0.1:1"):
        MilvusIndex("http://127.0.0.1:1", timeout=2.0)
