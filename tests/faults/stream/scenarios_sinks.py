"""Faults of the stores: failing, slow, full, gone."""

from __future__ import annotations

import subprocess
import time

from tests.conftest import RedisServer
from tests.faults.stream.figures import Broken
from tests.faults.stream.scenarios import scenario


@scenario("6", short=0.3)
def sinks_fail_now_and_then(rig):
    """Each store fails at first and then one time in n, before, half-way through or after the write."""
    how = rig.maker.rng.choice(["before", "half", "after"])
    wishes = {
        "online": {"first": 1, "every": 7, "how": how},
        "index": {"first": 2, "every": 5, "how": rig.maker.rng.choice(["before", "half", "after"])},
        "offline": {"first": 1, "every": 4, "how": rig.maker.rng.choice(["before", "half", "after"])},
    }
    rig.produce(rig.maker.creates())
    rig.start(wishes=wishes)
    rig.produce(rig.maker.mixed(rig.count(2_500)))
    rig.quiesce()
    return rig.finish(most_duplicates=0)


@scenario("6")
def sink_outages(rig):
    """Online store, index and offline tables are gone for 5 s each: not ready, lag grows, and then all is caught up."""
    rig.produce(rig.maker.creates())
    consumer = rig.start()
    rig.quiesce()
    for sink in ("online", "index", "offline") if rig.size >= 1 else ("index",):
        consumer.wish(sink, outage=True, how="half")
        rig.produce(rig.maker.mixed(rig.count(800)))
        time.sleep(5)
        if rig.lag() == 0:
            raise Broken(f"all is committed although {sink} is gone")
        if consumer.get("readyz")[0] != 503:
            raise Broken(f"/readyz says {consumer.get('readyz')} although {sink} is gone")
        consumer.wish(sink)
        rig.quiesce(recovery=True)
    if consumer.get("readyz")[0] != 200:
        raise Broken(f"/readyz says {consumer.get('readyz')} although all is well again")
    return rig.finish(most_duplicates=0)


@scenario("7")
def slow_sink(rig):
    """A store that takes 2 s a call, and once four times max.poll.interval: paused, but never evicted; memory stays flat."""
    rig.base |= {"stream_poll_interval_ms": 4_000, "stream_max_uncommitted": 1_000}
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(2_500)))
    consumer = rig.start(wishes={"index": {"slow": 2}})
    time.sleep(8)
    before, moved = consumer.rss(), moves(consumer)
    consumer.wish("online", slow=16)
    time.sleep(18)
    grown = (consumer.rss() - before) / (1 << 20)
    consumer.wish("online")
    consumer.wish("index")
    rig.quiesce(recovery=True)
    rig.figures.notes.append(f"memory grew {grown:.0f} MB while a store was slow")
    if grown > 100:
        raise Broken(f"memory grew {grown:.0f} MB while a store was slow")
    if moved := moves(consumer) - moved:
        raise Broken(f"expected the membership to last, got {moved:.0f} revocations")
    return rig.finish(most_duplicates=0)


def moves(consumer):
    """How often partitions were taken from a consumer."""
    return sum(consumer.metric(f'moontide_rebalances_total{{kind="{kind}"}}') for kind in ("lost", "revoked"))


@scenario("8", short=0.3)
def files_cannot_grow(rig):
    """No file may grow past 8 KB for some seconds, as on a full disk: writes fail half-way in every store, and then go on."""
    rig.produce(rig.maker.creates())
    consumer = rig.start()
    rig.quiesce()
    for _ in range(2 if rig.size >= 1 else 1):
        consumer.limit_files(8_192)
        rig.produce(rig.maker.mixed(rig.count(700)))
        time.sleep(5)
        if rig.lag() == 0:
            raise Broken("all is committed although no file can grow")
        if consumer.running:
            if consumer.get("readyz")[0] != 503:
                raise Broken(f"/readyz says {consumer.get('readyz')} although no file can grow")
            consumer.limit_files(None)
        else:
            rig.figures.notes.append(f"the consumer ended with {consumer.process.returncode} when no file could grow")
            consumer = rig.start()
        rig.figures.interruptions += 1
        rig.quiesce(recovery=True)
    rig.produce(rig.maker.mixed(rig.count(500)))
    rig.quiesce()
    return rig.finish()


@scenario("8")
def index_disk_full(rig):
    """The index lies on a disk of 8 MB that is full until it is made larger; acknowledged writes after that must stay."""
    folder = rig.home / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True).returncode:
        rig.figures.notes.append("left out: mounting a tmpfs needs rights that this user does not have")
        return rig.figures
    rig.unmounts.append(folder)
    rig.base["index_uri"] = str(folder / "index.db")
    rig.produce(rig.maker.creates())
    consumer = rig.start()
    rig.quiesce()
    filler = folder / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(16_384))
                file.flush()
        except OSError:
            pass
    rig.produce(rig.maker.mixed(rig.count(1_500)))
    rig.until(lambda: not consumer.running or consumer.get("readyz")[0] == 503, 30, "the full disk to be noticed")
    time.sleep(3)
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    rig.figures.interruptions += 1
    if not consumer.running:
        rig.figures.notes.append(f"the consumer ended with {consumer.process.returncode} when the disk was full")
        rig.start()
    rig.quiesce(recovery=True)
    rig.produce(rig.maker.mixed(rig.count(800)))
    rig.quiesce()
    return rig.finish()


def killed_under_load(rig, consumer, what, kill, start, *, rounds, events, away):
    """Kill a server while events come, see that nothing is committed and the consumer says so, and start it again."""
    for _ in range(rounds):
        sending = rig.producing(rig.maker.mixed(rig.count(events)), rate=500)
        time.sleep(0.7)
        kill()
        rig.figures.kills_of_others += 1
        time.sleep(away)
        if rig.lag() == 0:
            raise Broken(f"all is committed although the {what} is gone")
        if consumer.get("readyz")[0] != 503:
            raise Broken(f"/readyz says {consumer.get('readyz')} although the {what} is gone")
        start()
        sending.join()
        rig.quiesce(recovery=True)


@scenario("22", short=0.3)
def milvus_server_restarts(rig):
    """The index server is killed under load, stays away for some seconds, and comes back on the same data."""
    server = rig.milvus()
    rig.produce(rig.maker.creates())
    consumer = rig.start()
    rig.quiesce()
    killed_under_load(rig, consumer, "index", server.kill, server.start, rounds=2 if rig.size >= 1 else 1, events=1_000, away=4)
    return rig.finish(most_duplicates=0)


@scenario("22")
def second_owner_of_the_index_file(rig):
    """A second consumer on a milvus-lite file that has an owner: it is turned away with a word, the first goes on."""
    rig.produce(rig.maker.creates())
    first = rig.start()
    sending = rig.producing(rig.maker.mixed(rig.count(1_500)), rate=300)
    second = rig.start(wait=False)
    rig.until(lambda: not second.running, 60, "the second owner to be turned away")
    if second.process.returncode != 1 or "milvus-lite server" not in second.log:
        raise Broken(f"second owner: exit code {second.process.returncode}, {second.log[-500:]}")
    sending.join()
    rig.quiesce()
    rig.kill(first)
    rig.produce(rig.maker.mixed(rig.count(300)))
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()


@scenario("23")
def redis_down(rig):
    """The online store is a Redis that is killed under load and comes back (the consumer never reads Feast's registry)."""
    server = RedisServer(rig.folder, "--appendonly", "yes", "--appendfsync", "always").start()
    rig.stops.append(server.stop)
    rig.base |= {"online": "redis", "redis_url": server.url, "project": f"faults{rig.seed}"}
    rig.produce(rig.maker.creates())
    consumer = rig.start()
    rig.quiesce()
    killed_under_load(rig, consumer, "online store", server.stop, server.start, rounds=2, events=800, away=3)
    return rig.finish(most_duplicates=0)


@scenario("23")
def online_map_full(rig):
    """The LMDB file reaches its size: the consumer stops with a word, and goes on with a larger one."""
    large = rig.base["lmdb_map_size"]
    rig.base["lmdb_map_size"] = 1 << 20
    rig.maker.items += [f"more{n}" for n in range(2_000)]
    rig.produce(rig.maker.creates() + rig.maker.mixed(rig.count(600)))
    consumer = rig.start(wait=False)
    rig.until(lambda: not consumer.running, 60, "the consumer to stop")
    if consumer.process.returncode != 1 or "LMDB_MAP_SIZE" not in consumer.log:
        raise Broken(f"full LMDB file: exit code {consumer.process.returncode}, {consumer.log[-800:]}")
    rig.figures.interruptions += 1
    rig.base["lmdb_map_size"] = large
    rig.start()
    rig.quiesce(recovery=True)
    return rig.finish()
