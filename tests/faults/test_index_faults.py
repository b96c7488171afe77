"""milvus-lite under kills, failed writes and a second owner: what was flushed or acknowledged stays."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pymilvus.exceptions import MilvusException

from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Misconfigured, Transient
from moontide.stores.index import MilvusIndex

pytestmark = pytest.mark.faults

SPACE = EmbeddingSpace("moon", 1, 64, "sha256:" + "0" * 64)

PRELUDE = """
import os, resource, signal, sys
import numpy as np
from moontide import Embeddings, EmbeddingSpace
from moontide.errors import Transient
from moontide.stores.index import MilvusIndex

space = EmbeddingSpace("moon", 1, 64, "sha256:" + "0" * 64)
def rows(start, count):
    rng = np.random.default_rng(start)
    return Embeddings.from_float(space, rng.normal(size=(count, 64)), ids=[f"i{start + n}" for n in range(count)])
def token(number):
    return int(number).to_bytes(40, "big")
index = MilvusIndex(sys.argv[1])
index.ensure(space)
"""


def run(path, script):
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def stored(path, numbers):
    index = MilvusIndex(str(path))
    try:
        tokens = index.tokens(SPACE, [f"i{n}" for n in numbers])
        return index.count(SPACE), tokens, index.resolve_alias("moon")
    finally:
        index.close()


def test_kill_after_flush_loses_nothing(tmp_path):
    path = tmp_path / "index.db"
    done = run(
        path,
        """
        index.upsert(space, rows(0, 2500), [token(n) for n in range(2500)])
        index.delete(space, ["i0"])
        index.point_alias(space)
        index.flush(space)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    count, tokens, alias = stored(path, range(2_500))
    assert count == 2_499 and alias == "moon_v1"
    assert tokens == [None, *(n.to_bytes(40, "big") for n in range(1, 2_500))]


def test_a_collection_that_was_being_made_at_a_kill_is_made_again(tmp_path):
    """milvus-lite makes the folder first and its schema last; what is left of that is no collection."""
    folder = tmp_path / "index.db" / "collections" / SPACE.collection
    folder.mkdir(parents=True)
    (folder / "schema.json.tmp").touch()
    index = MilvusIndex(str(tmp_path / "index.db"))
    try:
        index.ensure(SPACE)
        assert index.count(SPACE) == 0
    finally:
        index.close()


def test_clean_close_keeps_what_was_not_flushed(tmp_path):
    path = tmp_path / "index.db"
    done = run(path, "index.upsert(space, rows(0, 10), [token(1)] * 10)\nindex.close()")
    assert done.returncode == 0, done.stderr
    assert stored(path, range(10))[0] == 10


def test_writes_acknowledged_after_a_failed_one_survive_a_kill(tmp_path):
    """A file-size limit makes writes to the log really fail half-way, as a full disk does."""
    path = tmp_path / "index.db"
    done = run(
        path,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        acknowledged, failed, at = [], 0, 0
        def write():
            global at, failed
            start, at = at, at + 50
            try:
                index.upsert(space, rows(start, 50), [token(start)] * 50)
                acknowledged.append(start)
            except Transient:
                failed += 1
        for _ in range(3):
            write()
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        for _ in range(200):
            if failed == 3:
                break
            write()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for _ in range(20):
            write()
        assert index.tokens(space, [f"i{acknowledged[-1]}"]) == [token(acknowledged[-1])]
        assert index.search(space, rows(acknowledged[-1], 1), 1).ids == [[f"i{acknowledged[-1]}"]]
        print(failed, *acknowledged, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    failed, *acknowledged = map(int, done.stdout.split())
    assert failed == 3 and len(acknowledged) >= 23
    wanted = [start + n for start in acknowledged for n in range(50)]
    _, tokens, _ = stored(path, wanted)
    assert tokens == [start.to_bytes(40, "big") for start in acknowledged for _ in range(50)]


def test_a_second_process_is_told_what_to_do(tmp_path):
    path = tmp_path / "index.db"
    index = MilvusIndex(str(path))
    try:
        done = run(path, "")
        assert done.returncode == 1
        assert "Misconfigured" in done.stderr and "milvus-lite server --host 127.0.0.1" in done.stderr
        index.ensure(SPACE)
        again = MilvusIndex(str(path))
        again.ensure(SPACE)
        again.close()
        assert index.count(SPACE) == 0
    finally:
        index.close()
    assert run(path, "print(index.count(space))").stdout.strip() == "0"


def test_a_file_of_milvus_lite_2_is_told_apart(tmp_path):
    (tmp_path / "index.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(Misconfigured, match="milvus-lite 2"):
        MilvusIndex(str(tmp_path / "index.db"))


def test_a_uri_of_no_kind_is_misconfigured():
    with pytest.raises(Misconfigured, match=r"expected a Milvus URI.*got ftp://127\.0\.0\.1:1.*MOONTIDE_INDEX_URI"):
        MilvusIndex("ftp://127.0.0.1:1")


def test_the_folder_is_private(tmp_path):
    index = MilvusIndex(str(tmp_path / "deep" / "index.db"))
    index.close()
    assert os.stat(tmp_path / "deep" / "index.db").st_mode & 0o077 == 0


def test_one_file_in_several_spellings_is_one_connection(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    spellings = ["index.db", str(tmp_path / "index.db"), "deep/../index.db", "link/index.db"]
    indexes = [MilvusIndex(spelling, token=str(n)) for n, spelling in enumerate(spellings)]
    assert len({id(index._connection) for index in indexes}) == 1
    indexes[0].ensure(SPACE)
    rows = Embeddings.from_float(SPACE, np.random.default_rng(0).normal(size=(1, 64)), ids=["a"])
    indexes[0].upsert(SPACE, rows, [bytes(40)])
    monkeypatch.chdir("/")
    for index in indexes[:-1]:
        index.close()
        assert indexes[-1].count(SPACE) == 1
    indexes[-1].close()
    assert stored(tmp_path / "index.db", [])[0] == 1


def test_two_indexes_of_a_process_share_the_file_across_a_failed_write(tmp_path):
    """After one of them had to reopen the file, the other still reads and writes it."""
    first, second = MilvusIndex(str(tmp_path / "index.db")), MilvusIndex(str(tmp_path / "index.db"))
    rows = Embeddings.from_float(SPACE, np.random.default_rng(0).normal(size=(2, 64)), ids=["a", "b"])
    first.ensure(SPACE)
    first.upsert(SPACE, rows, [bytes(40)] * 2)
    second.ensure(SPACE)
    first._connection._release()
    assert second.count(SPACE) == 2 and first.count(SPACE) == 2
    first.close()
    assert second.count(SPACE) == 2
    second.close()


def test_a_failed_read_is_transient_and_the_file_stays_ours(tmp_path):
    """The client connects anew after it; the lock it finds then is its own."""
    index = MilvusIndex(str(tmp_path / "index.db"))
    index.ensure(SPACE)
    rows = Embeddings.from_float(SPACE, np.random.default_rng(0).normal(size=(2, 64)), ids=["a", "b"])
    index.upsert(SPACE, rows, [bytes(40)] * 2)

    def late(client):
        raise MilvusException(code=4, message="deadline exceeded")

    for _ in range(2):
        with pytest.raises(Transient):
            index._connection.read("search", late)
        assert index.count(SPACE) == 2
    index.close()
    assert stored(tmp_path / "index.db", [])[0] == 2


def test_a_place_where_no_folder_can_be_made_is_misconfigured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="expected a folder that can be written, got: .*MOONTIDE_INDEX_URI"):
        MilvusIndex(str(tmp_path / "file" / "index.db"))
