"""Reads beside a writer that never rests, and one that is killed: every value is some committed version, whole."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from moontide import Embeddings, views
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.kv import wall_clock
from serving.reading import StoreVectors
from serving.table import VectorTables
from serving.table_load import load
from serving.table_writer import TableWriter

pytestmark = pytest.mark.faults

WORKER = Path(__file__).with_name("torn_writer.py")
READS = 100_000
spec = importlib.util.spec_from_file_location("torn_writer", WORKER)
torn = importlib.util.module_from_spec(spec)
spec.loader.exec_module(torn)


class Nothing:
    """A fallback that knows nobody."""

    def read(self, space, ids):
        return Embeddings.absent(space, len(ids), ids=ids)

    def read_keyed(self, space, ids):
        return self.read(space, ids), np.arange(len(ids))


def start(kind, where, seed=0):
    command = [sys.executable, str(WORKER), kind, str(where), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if process.stdout.readline() != "ready\n":
        process.kill()
        pytest.fail(process.communicate()[1])
    return process


def kill(process):
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -9, f"ended by itself with {process.returncode}: {errors}"


def read_beside(vectors, reads):
    """Rows that were present in about `reads` reads, all of them checked, and the highest version number seen to change."""
    rng, seen, present, changes, last = np.random.default_rng(1), 0, 0, 0, None
    while seen < reads:
        ids = [torn.ITEMS[n] for n in rng.integers(0, len(torn.ITEMS), 500)]
        found, _ = vectors.read_keyed(torn.SPACE, ids)
        wrong = torn.wrong_rows(found)
        assert not len(wrong), f"{ids[wrong[0]]}: a mixture of versions"
        seen += len(ids)
        present += int(found.present.sum())
        newest = float(found.scale.max())
        changes += newest != last
        last = newest
    return present, changes


def test_the_check_itself_finds_mixtures():
    found = torn.vectors_of(["a", "b", "c"], [5, 6, 123_456])
    assert not len(torn.wrong_rows(found))
    found.codes[1, 128:] = found.codes[2, 128:]
    found.scale[2] = 6
    assert torn.wrong_rows(found).tolist() == [1, 2]


def test_a_table_is_never_read_torn(tmp_path):
    writer = start("table", tmp_path)
    try:
        tables = VectorTables(tmp_path, Nothing())
        while tables.states([torn.SPACE])[0].rows < len(torn.ITEMS):
            time.sleep(0.01)
        present, changes = read_beside(tables, READS)
    finally:
        kill(writer)
    assert READS * 0.9 < present == tables.reads[torn.SPACE.id].table and changes > 10


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_a_store_is_never_read_torn(kind, tmp_path, request):
    options = {"online": "lmdb", "home": str(tmp_path), "lmdb_map_size": 1 << 26, "lmdb_sync": False}
    if kind == "redis":
        options = {"online": "redis", "redis_url": request.getfixturevalue("redis_url"), "project": f"torn{os.getpid()}"}
    writer = start("store", json.dumps(options))
    try:
        store = online_store(Settings(**options))
        present, changes = read_beside(StoreVectors(store), READS // 5)
        store.close()
    finally:
        kill(writer)
    assert present > READS // 10 and changes > 1


@pytest.mark.parametrize("how", ["table", "half"])
def test_a_writer_killed_in_the_middle_is_followed_by_one_that_mends_its_rows(how, tmp_path):
    store = online_store(Settings(home=tmp_path, online="memory"))
    versions = np.arange(1, len(torn.ITEMS) + 1)
    rows = embedding_rows(
        torn.vectors_of(torn.ITEMS, versions),
        source_version=9_000_000 + versions,
        event_timestamp=1,
        encoded_at=1,
        content_known_at=1,
    )
    store.write_rows(views.embedding_view(torn.SPACE), rows)
    tables = VectorTables(tmp_path, StoreVectors(store))
    process = start(how, tmp_path)
    time.sleep(0.05)
    kill(process)
    read_beside(tables, 1_000)
    if how == "half":
        found = tables.read(torn.SPACE, torn.ITEMS)
        assert (found.scale[:64] == versions[:64]).all() and (found.scale[64:] == 1).all()
        assert tables.reads[torn.SPACE.id].torn >= 64
    table = TableWriter(tmp_path, torn.SPACE, torn.CAPACITY, wall_clock)
    assert table.damaged == torn.ITEMS[:64] if how == "half" else len(table.damaged) <= len(torn.ITEMS)
    assert load(store, table, threading.Event())
    table.polled()
    found = tables.read(torn.SPACE, torn.ITEMS)
    assert found.present.all() and (found.scale == versions).all() and not table.damaged
    table.close()
