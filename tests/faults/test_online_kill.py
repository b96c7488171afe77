"""Writers and readers of one store, killed with SIGKILL at any moment: what was committed stays, and nothing else is ever seen."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from moontide.settings import Settings
from moontide.stores import online_store

pytestmark = pytest.mark.faults

WORKER = Path(__file__).with_name("online_worker.py")
KILLS = 3
spec = importlib.util.spec_from_file_location("online_worker", WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)


@pytest.fixture(params=["lmdb", "redis"])
def options(request, tmp_path):
    if request.param == "lmdb":
        return {"online": "lmdb", "home": str(tmp_path), "lmdb_map_size": 1 << 26}
    return {"online": "redis", "redis_url": request.getfixturevalue("redis_url"), "project": f"kill{os.getpid()}"}


def start(mode, options, seed=0):
    command = [sys.executable, str(WORKER), mode, json.dumps(options), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def kill(process):
    process.kill()
    output, errors = process.communicate()
    assert process.returncode == -9, f"ended by itself with {process.returncode}: {errors}"
    return output.count("\n")


def test_killed_writers_and_readers_leave_only_committed_versions(options):
    rng = np.random.default_rng(0)
    running = [start(mode, options, seed) for seed, mode in enumerate(["write", "write", "read", "read"])]
    for process in running:
        assert process.stdout.readline()
    done = 0
    for turn in range(KILLS):
        victim = turn % 2
        assert running[victim].stdout.readline() == "wrote\n"
        time.sleep(rng.uniform(0, 0.1))
        done += kill(running[victim])
        running[victim] = start("write", options, seed=turn + 10)
    done += sum(kill(process) for process in running)
    assert done > 10
    store = online_store(Settings(**options))
    versions = worker.check(store, worker.ITEMS)
    assert sum(version > 0 for version in versions) > len(worker.ITEMS) // 2
    heads = store.heads(worker.VIEW, worker.ITEMS)
    assert heads.source_version.tolist() == versions
    marks = {mark.item_id for mark in store.dirty(worker.SPACE, 1_000)}
    assert marks == {item for item, version in zip(worker.ITEMS, versions, strict=True) if version}
    assert store.write_rows(worker.VIEW, worker.rows_of(worker.ITEMS, [1_000] * 200)).applied == 200
    assert worker.check(store, worker.ITEMS) == [1_000] * 200
    store.drop_view(worker.VIEW)
    store.close()


def test_slots_of_killed_readers_are_freed_by_those_who_live(tmp_path):
    now = [0]
    settings = Settings(online="lmdb", home=tmp_path, lmdb_map_size=1 << 26)
    store = online_store(settings, clock=lambda: now[0])
    holders = [start("hold", {"online": "lmdb", "home": str(tmp_path), "lmdb_map_size": 1 << 26}) for _ in range(3)]
    for process in holders:
        assert process.stdout.readline().startswith("held")
    for process in holders:
        kill(process)
    assert _slots(settings, holders) == 3
    store.count(worker.VIEW)
    assert _slots(settings, holders) == 3
    now[0] += 10_000_001
    store.count(worker.VIEW)
    assert _slots(settings, holders) == 0
    store.close()


def _slots(settings, processes):
    """How many reader slots those processes hold, as a third process sees them."""
    script = (
        "import lmdb, sys; env = lmdb.open(sys.argv[1], max_dbs=2, max_readers=1024, map_size=1 << 26)\n"
        "print(sum(line.split()[0] in sys.argv[2:] for line in env.readers().splitlines() if line.split()[0].isdigit()))"
    )
    pids = [str(process.pid) for process in processes]
    done = subprocess.run(
        [sys.executable, "-c", script, str(settings.lmdb_path), *pids], check=True, capture_output=True, text=True
    )
    return int(done.stdout)
