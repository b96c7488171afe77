"""The consumer beside its peers: the same events, in turns, after all of them came to the same state."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks._freshness_cells import DRAIN, PARTITIONS, settle, summary
from benchmarks._freshness_events import CHANGED, Rates, Shoppers, cell
from benchmarks._peer_python import peer_python
from moontide import names
from moontide.live import load_spaces

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"
VENV = ROOT / "build" / "peers"
OURS, HAND, QUIX = "moontide", "hand-written loop", "Quix Streams, batching sink"
#: Events per second that even one write per message carries.
LOW = 20.0


def quix_python():
    """Python of a virtual environment with Quix Streams beside the packages of this one; None where it cannot be installed."""
    return peer_python(REQUIREMENTS, VENV)


class Peer:
    """One peer: its stores filled as ours are, its process, and where a watcher looks."""

    def __init__(self, site, name, python, module, where):
        self.name, self.where, self.topic = name, where, f"{names.TOPIC_ITEM_EVENTS}-{module}"
        site.broker.create_topic(self.topic, partitions=PARTITIONS)
        config = {
            **where,
            "bootstrap": site.broker.bootstrap,
            "group": module,
            "topic": self.topic,
            "artifact": str(load_spaces(site.spaces).live("moon_v2").artifact),
        }
        path = site.folder / f"{module}.json"
        path.write_text(json.dumps(config))
        self.process = site.spawn(module, [str(python), "-m", f"benchmarks.peers.{module}", str(path)])


def start_peers(site, catalog):
    """Both peers, filled with what we hold and running."""
    stamps = {n: state.event_us for n, state in catalog.items.items()}
    whole = {"home": str(site.home), "spaces": str(site.spaces), "index": site.index_uri, "stamps": stamps, "ids": list(stamps)}
    places = {"feast": str(site.folder / "feast"), "lmdb": str(site.folder / "plain")}
    state_of(site, "fill", whole | places)
    found = []
    where = {"index": site.index_uri, "collection": "hand_written", "feast": places["feast"], "system": "feast"}
    found.append(Peer(site, HAND, sys.executable, "hand_written", where))
    python = quix_python()
    if python is not None:
        where = {"index": site.index_uri, "collection": "quix", "lmdb": places["lmdb"], "system": "lmdb"}
        found.append(Peer(site, QUIX, python, "quix", where))
    return found


def state_of(site, what, config):
    """Fill or check in a process of its own: a Milvus client that idles here while others run does not survive it."""
    path = site.folder / f"{what}.json"
    path.write_text(json.dumps(config))
    process = site.spawn(what, [sys.executable, "-m", "benchmarks._freshness_state", what, str(path)])
    if process.wait(300):
        raise SystemExit(f"{what} failed; nothing is compared: {site.log(what)}")


def systems(peers):
    """Name -> (topic, where a watcher looks)."""
    return {OURS: (names.TOPIC_ITEM_EVENTS, {})} | {p.name: (p.topic, p.where) for p in peers}


def addressed(sends, topic):
    return [replace(send, topic=topic) for send in sends]


def backlog_round(site, catalog, peers, sends):
    """The same events for each system in turn, all at once; events per second of each, and the items they touch."""
    last, probes = catalog.last_of_partitions(PARTITIONS)
    found = {}
    for name, (topic, where) in systems(peers).items():
        watch = site.watch(probes, catalog, **where)
        start = time.time() + 3.0
        watch.go(start, start + 240)
        site.send(addressed([*sends, *last], topic), start)()
        seen = [seconds for _, _, _, seconds in watch.rows()]
        if None in seen:
            raise SystemExit(f"{name} did not handle {len(sends)} events in 240 s; see its log")
        found[name] = (len(sends) + len(last)) / max(seen)
    return found, sorted({s.key for s in [*sends, *last]})


def check_equal(site, peers, ids):
    """Ends the run unless every system holds the same versions and vectors, online and in its index."""
    config = {"home": str(site.home), "spaces": str(site.spaces), "ids": ids, "peers": {p.name: p.where for p in peers}}
    state_of(site, "check", config)


def freshness_of(site, catalog, peers, events, name, seconds):
    """Percentiles of one system under a stream of events; the others are idle."""
    topic, where = systems(peers)[name]
    sends, probes = events
    watch = site.watch(probes, catalog, **where)
    start = time.time() + 3.0
    watch.go(start, start + seconds + DRAIN)
    site.send(addressed(sends, topic), start)()
    rows = watch.rows()
    return {kind: summary([r for r in rows if r[0] == kind]) for kind in ("readable", "search")}


def compare(site, catalog, plan, capacity):
    """Every cell with the peers; our consumer runs alone again afterwards."""
    peers = start_peers(site, catalog)
    shoppers = Shoppers(catalog)
    results = {"not_run": [] if len(peers) == 2 else [QUIX], "throughput": {}, "freshness": {}}
    warm, touched = backlog_round(site, catalog, peers, catalog.backlog(32, catalog.change))
    check_equal(site, peers, touched)
    for kind, draw in (("every event changes the content", catalog.change), ("70 % unchanged", catalog.mixed)):
        results["throughput"][kind] = {name: [] for name in warm}
        every = set()
        for _ in range(plan.peer_rounds):
            rates, touched = backlog_round(site, catalog, peers, catalog.backlog(plan.peer_events, draw))
            every.update(touched)
            for name, rate in rates.items():
                results["throughput"][kind][name].append(rate)
        check_equal(site, peers, sorted(every))
    low = cell(catalog, shoppers, Rates(items=LOW, behaviours=0.0, searched=2.0, tiers=0.0), plan.peer_seconds)
    for name in systems(peers):
        results["freshness"].setdefault(f"{LOW:.0f} item events/s", {})[name] = freshness_of(
            site, catalog, peers, low, name, plan.peer_seconds
        )
    rate = 0.1 * capacity / CHANGED
    tenth = cell(catalog, shoppers, Rates(items=rate, behaviours=0.0, searched=2.0, tiers=0.0), plan.peer_seconds)
    for name in systems(peers):
        # One write per message cannot carry it: it would only measure how long the run is.
        if name != HAND:
            found = freshness_of(site, catalog, peers, tenth, name, plan.peer_seconds)
            results["freshness"].setdefault(f"{rate:.0f} item events/s (10 % load)", {})[name] = found
    for peer in peers:
        peer.process.kill()
    settle(site)
    return results
