"""Faults around two writers of one store: a new space beside the old one, and a backfill beside the stream."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moontide import schemas
from moontide.events import Content
from streaming.message import Point
from tests.faults.stream.figures import Broken
from tests.faults.stream.harness import DIM, SPACES
from tests.faults.stream.ledger import VALID, Sent
from tests.faults.stream.scenarios import scenario
from tests.faults.stream.workload import STEP_US, content_hash

ROOT = Path(__file__).parents[3]
SECOND = """
[[space]]
name = "fault"
version = 2
dim = 32
artifact = "no-such-artifact"
"""


@scenario("19", short=0.3)
def new_space_beside_the_old(rig):
    """A second space with a backlog: both are written, the new one from the oldest record on; killed, rolled back, resumed."""
    blue = SPACES.format(dim=DIM)
    spaces = rig.home / "spaces.toml"
    consumer = rig.start()
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(1_200)))
    rig.quiesce()
    rig.new_group(consumer)
    spaces.write_text(blue + SECOND)
    rig.base["stream_session_ms"] = 3_000
    sending = rig.producing(rig.maker.mixed(rig.count(600)), rate=200)
    rig.expect_death(rig.start(wait=False, point={"point": Point.ONLINE_WRITTEN, "n": 3, "action": "kill"}))
    rig.expect_death(rig.start(wait=False, point={"point": Point.INDEX_FLUSHED, "n": 1, "action": "kill"}))
    sending.join()
    both = rig.start()
    rig.quiesce(recovery=True)
    both.terminate()
    # Rolled back: only the old space is written for a while; what the new one misses comes with the next replay.
    spaces.write_text(blue)
    only = rig.start()
    rig.produce(rig.maker.mixed(rig.count(400)))
    rig.quiesce()
    rig.new_group(only)
    spaces.write_text(blue + SECOND)
    rig.start()
    rig.quiesce()
    return rig.finish()


@scenario("20")
def backfill_beside_the_stream(rig):
    """A Spark backfill, killed half-way and run again, of a catalog that is partly older and partly newer than the stream."""
    m = rig.maker
    m.items += [f"more{n}" for n in range(150)]
    rig.produce(m.creates())
    rig.start()
    rig.quiesce()
    catalog = rig.folder / "catalog.parquet"
    rig.note(write_catalog(m, catalog))
    sending = rig.producing(m.mixed(rig.count(3_000)), rate=120)
    killed = backfill(rig, catalog)
    offline = rig.home / "offline"
    before = len(list(offline.rglob("part-*backfill*")))
    since = time.monotonic()
    while len(list(offline.rglob("part-*backfill*"))) <= before and killed.poll() is None and time.monotonic() - since < 60:
        time.sleep(0.01)
    time.sleep(m.rng.random() * 2)
    if killed.poll() is None:
        os.killpg(killed.pid, signal.SIGKILL)
        rig.figures.kills_of_others += 1
    killed.wait()
    again = backfill(rig, catalog)
    if again.wait(240):
        raise Broken(f"the backfill ended with {again.returncode}: {(rig.folder / 'backfill.log').read_text()[-2000:]}")
    sending.join()
    rig.quiesce()
    # The consumer finds what the job marked at its checkpoints.
    for _ in range(3):
        rig.produce(m.mixed(rig.count(60)))
        rig.quiesce()
        time.sleep(1)
    return rig.finish(most_duplicates=0)


def write_catalog(maker, path):
    """A catalog of items the stream knows, with lower and higher versions, and of others; returns the ledger's rows."""
    rng, rows, sent = random.Random(maker.rng.random()), [], []
    for n, item in enumerate([*maker.items[::2], *(f"catalog{n}" for n in range(200))]):
        position = rng.randrange(1, 8_000)
        version, event_us = position * 10 + 3, maker.base_us + position * STEP_US + 3
        content = Content(f"{item} of the catalog", category="catalog", price=float(n))
        rows.append((item, content.title, content.category, content.price, version, event_us))
        sent.append(
            Sent(
                f"c{n}",
                "",
                "catalog",
                item,
                version,
                event_us,
                "update",
                content_hash(content),
                content.price,
                "",
                "",
                "",
                VALID,
                acked=True,
                part=0,
                off=n,
            )
        )
    columns = list(zip(*rows, strict=True))
    names = ["item_id", "title", "category", "price", "source_version", "event_timestamp"]
    table = pa.table([pa.array(c, schemas.CATALOG.field(name).type) for name, c in zip(names, columns, strict=True)], names)
    pq.write_table(table, path, row_group_size=100)
    return sent


def backfill(rig, catalog):
    """The job, in a process group of its own."""
    flags = ["--home", str(rig.home), "--catalog", str(catalog), "--space", "fault_v1", "--encoder", f"stub:{DIM}"]
    flags += ["--master", "local[2]", "--partitions", "4", "--skip-index"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MOONTIDE_LMDB_MAP_SIZE": str(rig.base["lmdb_map_size"])}
    with (rig.folder / "backfill.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.backfill_embeddings", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
