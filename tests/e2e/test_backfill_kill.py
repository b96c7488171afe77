"""A backfill killed with SIGKILL while executors write, while stores are loaded and while the index follows ends, run again,
in the state of one that was left alone.
"""

import signal
import subprocess
import sys
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moontide import views
from moontide.live import load_spaces
from moontide.order import WriteOrder
from moontide.settings import Settings
from moontide.stores import online_store, vector_index
from moontide.stores.offline import OfflineTables

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
ROWS = 3_000
PARTITIONS = 6
SPACES = '[[space]]\nname = "stub"\nversion = 1\ndim = 16\n'
#: Runs the program and kills its own process, as it is, at a point of its work.
VICTIM = """
import os, pathlib, signal, sys, threading, time
from jobs import backfill_embeddings
from moontide.stores.indexer import Indexer
from moontide.stores.online import PackedOnlineStore

home, where, *flags = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def files(folder):
    return len(list(pathlib.Path(home, "offline", folder).rglob("part-*.parquet")))

def watch():
    while files("item_embedding") < 2:
        time.sleep(0.005)
    die()

write, run_once = PackedOnlineStore.write_rows, Indexer.run_once
calls = []

def write_half(self, view, rows):
    calls.append(view)
    if len(calls) == 3:
        write(self, view, rows.slice(0, rows.num_rows // 2))
        die()
    return write(self, view, rows)

class DiesBeforeMarksAreCleared:
    def __init__(self, store):
        self._store = store
    def __getattr__(self, name):
        if name == "clear_dirty":
            die()
        return getattr(self._store, name)

def index_half(self, *, limit=0):
    self._online = DiesBeforeMarksAreCleared(self._online)
    return run_once(self, limit=700)

if where == "encode":
    threading.Thread(target=watch, daemon=True).start()
elif where == "load":
    PackedOnlineStore.write_rows = write_half
elif where == "index":
    Indexer.run_once = index_half
sys.exit(backfill_embeddings.main(["--home", home, *flags]))
"""


def home_of(folder):
    folder.mkdir()
    (folder / "spaces.toml").write_text(SPACES)
    return folder


def backfill(home, catalog, where="never"):
    flags = ["--catalog", str(catalog), "--space", "stub_v1", "--encoder", "stub:16", "--master", "local[2]"]
    flags += ["--snapshot-time", "2026-01-01T00:00:00Z", "--partitions", str(PARTITIONS)]
    command = [sys.executable, "-c", VICTIM, str(home), where, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def state(home):
    """What the three stores hold, without the times of the runs."""
    settings = Settings(home=home)
    space = load_spaces(settings.spaces_path).space("stub_v1")
    found = {}
    with closing(online_store(settings)) as store, closing(vector_index(settings)) as index:
        for view in (views.embedding_view(space), views.item_features()):
            skipped = {"encoded_at", "created", "content_known_at", "embedding"}
            columns = [c for c in view.table.names if c not in skipped]
            offline = pa.concat_tables(OfflineTables(settings.offline_root).latest(view)).select(columns)
            online = store.read_records(view, [i for page in store.scan(view) for i in page]).select(columns)
            found[f"offline {view.name}"] = offline.sort_by("item_id").to_pylist()
            found[f"online {view.name}"] = online.sort_by("item_id").to_pylist()
        tokens = {item: WriteOrder.unpack(token) for page in index.scan(space) for item, token in page}
        found["index"] = {i: (t.source_version, t.event_timestamp, t.content_hash) for i, t in tokens.items()}
        assert store.dirty(space, 10) == []
        heads = store.heads(views.embedding_view(space), list(tokens))
        assert [t.encoded_at for t in tokens.values()] == heads.encoded_at.tolist()
    return found


def test_killed_at_three_points_and_run_again_is_as_if_never_killed(tmp_path):
    rows = {"item_id": [f"i{n:05d}" for n in range(ROWS)], "title": [f"title {n}" for n in range(ROWS)], "price": [1.0] * ROWS}
    catalog = tmp_path / "catalog.parquet"
    pq.write_table(pa.table(rows), catalog, row_group_size=ROWS // 4)
    killed, calm = home_of(tmp_path / "killed"), home_of(tmp_path / "calm")
    folder = killed / "offline" / "item_embedding"

    died = backfill(killed, catalog, "encode")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert folder.exists()
    assert not (killed / "rejects").exists()
    assert "online item_embedding" not in died.stdout

    died = backfill(killed, catalog, "load")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert f"catalog {ROWS:,} rows" in died.stdout
    settings = Settings(home=killed)
    view = views.embedding_view(load_spaces(settings.spaces_path).space("stub_v1"))
    with closing(online_store(settings)) as store:
        assert 0 < store.count(view) < ROWS

    died = backfill(killed, catalog, "index")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert "encode" not in died.stdout
    assert f"unchanged {ROWS:,}" in died.stdout
    assert "item_features" in died.stdout

    done = backfill(killed, catalog)
    assert done.returncode == 0, done.stderr
    assert f"unchanged {ROWS:,}" in done.stdout

    assert backfill(calm, catalog).returncode == 0
    after, expected = state(killed), state(calm)
    assert len(expected["index"]) == ROWS
    assert after == expected
