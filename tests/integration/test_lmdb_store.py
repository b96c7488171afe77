"""The rules an LMDB file asks for: one environment per process, forks, file modes, limits."""

import os
import stat
import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace, views
from moontide.errors import Misconfigured
from moontide.records import embedding_rows
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.kv_lmdb import LmdbKeyValue
from moontide.stores.kv_lmdb_environment import LmdbOptions
from moontide.stores.online import PackedOnlineStore

pytestmark = pytest.mark.integration

SPACE = EmbeddingSpace("file", 1, 64)
VIEW = views.embedding_view(SPACE)


def rows(ids, version=1):
    values = np.random.default_rng(version).normal(size=(len(ids), SPACE.dim)).astype(np.float32)
    found = Embeddings.from_float(SPACE, values, ids=ids)
    return embedding_rows(found, source_version=version, event_timestamp=1, encoded_at=1, content_known_at=1)


def opened(path, *, map_size=1 << 26, clock=lambda: 0):
    engine = LmdbKeyValue(path, LmdbOptions(map_size, 1024, False), clock)
    return PackedOnlineStore(engine, project="p", clock=clock, sequence_length=10)


def in_child(work):
    """Exit code of a forked child that runs `work`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_from_settings_private_files_and_reopening(tmp_path):
    settings = Settings(home=tmp_path, lmdb_map_size=1 << 26)
    store = online_store(settings)
    store.write_rows(VIEW, rows(["a", "b"]))
    store.close()
    assert stat.S_IMODE(os.stat(settings.lmdb_path).st_mode) == 0o700
    modes = {stat.S_IMODE(file.stat().st_mode) for file in settings.lmdb_path.iterdir()}
    assert modes == {0o600}
    again = online_store(settings)
    assert again.read_embeddings(SPACE, ["a", "b"]).present.all()
    again.close()


def test_a_closed_store_says_so_and_closes_twice(tmp_path):
    store = opened(tmp_path)
    store.close()
    store.close()
    with pytest.raises(Misconfigured, match="closed"):
        store.count(VIEW)


def test_stores_of_one_process_share_an_environment(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    first, second = opened(tmp_path / "real"), opened(tmp_path / "link")
    first.write_rows(VIEW, rows(["a"]))
    first.close()
    assert second.count(VIEW) == 1
    second.close()


def test_other_options_for_an_open_file_are_misconfigured(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(Misconfigured, match=r"map_size=67108864.*map_size=134217728.*MOONTIDE_LMDB"):
        opened(tmp_path, map_size=1 << 27)
    first.write_rows(VIEW, rows(["a"]))
    first.close()
    second = opened(tmp_path, map_size=1 << 27)
    assert second.count(VIEW) == 1
    second.close()


def test_a_forked_child_reads_and_writes_on_an_environment_of_its_own(tmp_path):
    store = opened(tmp_path)
    store.write_rows(VIEW, rows(["a"]))

    def work():
        assert store.read_embeddings(SPACE, ["a"]).present.all()
        store.write_rows(VIEW, rows(["b"]))
        store.close()

    for _ in range(3):
        assert in_child(work) == 0
        assert store.read_embeddings(SPACE, ["a", "b"]).present.all()
    store.write_rows(VIEW, rows(["a"], version=2))
    assert in_child(lambda: in_child(work) == 0 or os._exit(3)) == 0
    assert store.count(VIEW) == 2
    store.close()


def test_a_fork_while_other_threads_write(tmp_path):
    store, stop = opened(tmp_path), threading.Event()
    failures = []

    def write():
        version = 0
        while not stop.is_set():
            version += 1
            try:
                store.write_rows(VIEW, rows([f"i{n}" for n in range(50)], version))
            except Exception as error:  # noqa: BLE001 - carried to the test's own thread
                failures.append(error)
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: store.write_rows(VIEW, rows(["child"]))) == 0
    finally:
        stop.set()
        thread.join()
    assert not failures and store.count(VIEW) == 51
    store.close()


def test_a_full_file_says_what_to_do_and_keeps_what_it_had(tmp_path):
    store = opened(tmp_path, map_size=1 << 20)
    store.write_rows(VIEW, rows(["a"]))
    with pytest.raises(Misconfigured, match=r"MOONTIDE_LMDB_MAP_SIZE.*writing it again is safe"):
        store.write_rows(VIEW, rows([f"i{n}" for n in range(20_000)]))
    assert store.read_embeddings(SPACE, ["a"]).present.all()
    store.close()
    larger = opened(tmp_path, map_size=1 << 26)
    assert larger.write_rows(VIEW, rows([f"i{n}" for n in range(20_000)])).stale == 0
    assert larger.count(VIEW) == 20_001
    larger.close()


def test_a_file_another_process_grew_is_misconfigured(tmp_path):
    small = opened(tmp_path, map_size=1 << 20)
    small.count(VIEW)

    grow = (
        "import lmdb, sys; env = lmdb.open(sys.argv[1], max_dbs=2, map_size=1 << 26)\n"
        "with env.begin(write=True, db=env.open_db(b'moontide')) as txn: txn.put(b'x', bytes(1 << 23))"
    )
    subprocess.run([sys.executable, "-c", grow, str(tmp_path)], check=True)
    with pytest.raises(Misconfigured, match="MOONTIDE_LMDB_MAP_SIZE"):
        small.count(VIEW)
    small.close()


def test_what_is_no_lmdb_file_or_folder_is_misconfigured(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database, but long enough to have a header" * 200)
    with pytest.raises(Misconfigured, match="LMDB file"):
        opened(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(Misconfigured, match="MOONTIDE_HOME"):
        opened(tmp_path / "file" / "online")


def test_bytes_of_another_program_are_misconfigured(tmp_path):
    store = opened(tmp_path)
    store.write_rows(VIEW, rows(["a"]))
    store.close()
    env = lmdb.open(str(tmp_path), max_dbs=2, map_size=1 << 26)
    with env.begin(write=True, db=env.open_db(b"moontide")) as txn:
        for name, value in [("short", b"x"), ("long", b"y" * 500), ("same", b"z" * 137)]:
            txn.put(f"rp\0{VIEW.name}\0{name}".encode(), value)
    env.close()
    store = opened(tmp_path)
    for name in ("short", "long", "same"):
        with pytest.raises(Misconfigured, match="format"):
            store.read_embeddings(SPACE, ["a", name])
    assert store.read_embeddings(SPACE, ["a"]).present.all()
    store.close()
