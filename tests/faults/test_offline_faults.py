"""Writers and compactions of the offline tables killed at random, a full disk, and readers beside a compaction."""

import random
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from moontide import views
from moontide.errors import Transient
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_compact import compact
from moontide.stores.offline_files import FileTree

pytestmark = pytest.mark.faults

VIEW = views.item_features()
#: What the killed programs start with; this file runs it too.
PRELUDE = """
import itertools, os, resource, signal, sys
from datetime import UTC, datetime, timedelta
import pyarrow as pa
from moontide import views
from moontide.errors import Transient
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_compact import compact

view = views.item_features()
def rows(batch, count=20):
    at = [datetime(2026, 1, 1 + n % 3, tzinfo=UTC) for n in range(count)]
    values = {"item_id": [f"i{batch}.{n}" for n in range(count)], "source_version": [batch] * count, "event_timestamp": at,
              "created": at, "deleted": [False] * count, "price": [float(n) for n in range(count)], "category": ["c"] * count,
              "has_image": [True] * count, "has_text": [False] * count}
    return pa.table(values, schema=view.table)
"""
SHARED: dict = {}
exec(PRELUDE, SHARED)
rows = SHARED["rows"]
BATCHES, ROWS = 30, 20


def start(folder, script):
    command = [sys.executable, "-c", PRELUDE + "tables = OfflineTables(sys.argv[1])\n" + textwrap.dedent(script), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def items(tables):
    found = [i for part in tables.scan(VIEW, ["item_id"]) for i in part["item_id"].to_pylist()]
    assert len(found) == len(set(found))
    return set(found)


def expected(batches):
    return {f"i{b}.{n}" for b in range(batches) for n in range(ROWS)}


def test_writers_killed_at_random_then_run_again_end_in_the_same_state(tmp_path):
    script = f"""
    for batch in range({BATCHES}):
        tables.append(view, rows(batch), writer=f"job-{{batch}}")
        print(batch, flush=True)
    """
    chance = random.Random(0)
    for _ in range(4):
        process = start(tmp_path, script)
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        done = 1 + sum(1 for _ in process.stdout)
        process.wait()
        tables = OfflineTables(tmp_path)
        assert expected(done) <= items(tables)
        for file in tables.tree.files(VIEW.name):
            assert pq.read_table(file.path).num_rows > 0
    again = start(tmp_path, script)
    assert again.wait() == 0
    tables = OfflineTables(tmp_path)
    assert items(tables) == expected(BATCHES) and len(tables.tree.files(VIEW.name)) == 3 * BATCHES
    (tmp_path / "_staging").mkdir(exist_ok=True)
    (tmp_path / "_staging" / "left-by-a-killed-writer").write_bytes(b"half")
    late = OfflineTables(tmp_path, clock=lambda: datetime.now(UTC) + timedelta(days=2))
    compact(late, VIEW, grace=timedelta(0))
    assert list((tmp_path / "_staging").iterdir()) == [] and items(tables) == expected(BATCHES)


@pytest.mark.parametrize("grace", [0, 3600])
def test_compactions_killed_at_random_lose_no_row(tmp_path, grace):
    tables, chance = OfflineTables(tmp_path), random.Random(1)
    script = f"""
    print("go", flush=True)
    for size in itertools.cycle([7, 1000, 31, 200]):
        compact(tables, view, target_rows=size, grace=timedelta(seconds={grace}))
    """
    for batch in range(12):
        tables.append(VIEW, rows(batch), writer=f"job-{batch}")
        if batch % 3 == 2:
            process = start(tmp_path, script)
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
            process.wait()
            assert items(tables) == expected(batch + 1)
    counts = compact(tables, VIEW, grace=timedelta(0))
    assert items(tables) == expected(12) and counts.files_after == 3 and counts.rows_after == 12 * ROWS


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize(("folded", "added", "target"), [(2, 3, 30), (3, 4, 44), (4, 5, 60), (2, 6, 40)])
def test_a_compaction_killed_at_any_commit_then_run_again_loses_no_row(tmp_path, monkeypatch, folded, added, target):
    """`folded` batches lie in one small folded file, so the second run may fold the very rows of the first run's first file."""
    commit, total = FileTree.commit, folded + added

    def killed_at(number):
        tables, left = OfflineTables(tmp_path / str(number)), [number]
        for batch in range(total):
            if batch == folded:
                compact(tables, VIEW, grace=timedelta(0))
            tables.append(VIEW, rows(batch), writer=f"job-{batch}")

        def dying(self, folder, name, table):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return commit(self, folder, name, table)

        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(FileTree, "commit", dying)
            compact(tables, VIEW, target_rows=target, grace=timedelta(0))
        assert items(tables) == expected(total)
        for _ in range(2):
            compact(tables, VIEW, target_rows=target, grace=timedelta(0))
            assert items(tables) == expected(total)
        return left[0] <= 0

    kills = 0
    while killed_at(kills + 1):
        kills += 1
    assert kills >= 5


def test_a_full_disk_is_transient_and_shows_nothing(tmp_path):
    done = start(
        tmp_path,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        try:
            tables.append(view, rows(0), writer="w")
        except Transient as error:
            print("transient", error)
        print(len(tables.tree.files(view.name)), len(os.listdir(sys.argv[1] + "/_staging")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        tables.append(view, rows(0), writer="w")
        """,
    )
    output = done.communicate()[0].splitlines()
    assert done.returncode == 0 and output[0].startswith("transient") and output[-1] == "0 0"
    assert items(OfflineTables(tmp_path)) == expected(1)


@pytest.mark.parametrize("grace", [0, 3600])
def test_readers_beside_compactions_see_every_row_or_are_told_to_read_again(tmp_path, grace):
    tables = OfflineTables(tmp_path)
    for batch in range(10):
        tables.append(VIEW, rows(batch), writer=f"job-{batch}")
    stop, failures = threading.Event(), []

    def fold():
        while not stop.is_set():
            for size in (7, 1_000):
                compact(tables, VIEW, target_rows=size, grace=timedelta(seconds=grace))

    thread = threading.Thread(target=fold)
    thread.start()
    good = 0
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                assert items(tables) == expected(10)
                assert sum(t.num_rows for t in tables.latest(VIEW)) == 10 * ROWS
                good += 1
            except Transient as error:
                failures.append(error)
    finally:
        stop.set()
        thread.join()
    assert good > 3
    assert grace == 0 or not failures


def test_two_compactions_at_once_lose_no_row(tmp_path):
    tables = OfflineTables(tmp_path)
    for batch in range(6):
        tables.append(VIEW, rows(batch), writer=f"job-{batch}")
    script = """
    for size in [7, 1000, 31, 200] * 4:
        try:
            compact(tables, view, target_rows=size, grace=timedelta(0))
        except Transient:
            pass
    """
    both = [start(tmp_path, script) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    assert items(tables) == expected(6)
    compact(tables, VIEW, grace=timedelta(0))
    assert items(tables) == expected(6)
