"""The process that writes the tables of a site: one at a time, killed and followed by the next, without a broker."""

import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest

from moontide import Embeddings, views
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.kv import wall_clock
from serving.reading import StoreVectors
from serving.site_files import SiteFiles
from serving.table import VectorTables
from serving.table_process import keep_tables, tables_folder
from tests.kafka_broker import free_port

pytestmark = pytest.mark.integration
SPAWN = multiprocessing.get_context("spawn")
TOML = """
[[space]]
name = "moon"
version = 1
dim = 8
[[simtier]]
space = "moon_v1"
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n20_l50_drop"
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "spaces.toml").write_text(TOML)
    settings = Settings(
        home=tmp_path, lmdb_map_size=1 << 26, serving_table_rows=1_000, serving_table_refresh_seconds=0.05,
        kafka_servers=f"127.0.0.1:{free_port()}",
    )  # fmt: skip
    yield SiteFiles(settings, tmp_path / "spaces.toml")
    shutil.rmtree(tables_folder(settings), ignore_errors=True)


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def started(files):
    process = SPAWN.Process(target=keep_tables, args=(files,))
    process.start()
    return process


def test_a_writer_that_is_killed_is_followed_by_the_one_that_waits(files):
    store, live = files.open()
    space = live.space("moon_v1")

    def write(version):
        vectors = Embeddings.from_codes(space, np.full((2, 8), version, np.int8), np.ones(2, np.float32), ids=["a", "b"])
        times = {"event_timestamp": version, "encoded_at": 1, "content_known_at": 1}
        store.write_rows(views.embedding_view(space), embedding_rows(vectors, source_version=version, **times))

    write(1)
    tables = VectorTables(tables_folder(files.settings), StoreVectors(online_store(Settings(online="memory"))))

    def code():
        found = tables.read(space, ["a"])
        return int(found.codes[0, 0]) if found.present[0] else None

    first = started(files)
    until(lambda: code() == 1)
    second = started(files)
    write(2)
    until(lambda: code() == 2)
    os.kill(first.pid, signal.SIGKILL)
    first.join(30)
    write(3)
    until(lambda: code() == 3)
    (state,) = tables.states([space])
    assert state.loaded and state.lag == -1 and state.rows == 2 and state.staleness(wall_clock()) < 30
    os.kill(second.pid, signal.SIGTERM)
    second.join(30)
    assert first.exitcode == -signal.SIGKILL and second.exitcode == 0 and code() == 3
    store.close()
