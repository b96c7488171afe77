"""The cells: bare encoder, throughput with a backlog, unchanged events, freshness under load, catching up after a stop."""

import statistics
import time

import numpy as np
import pyarrow as pa

from benchmarks._freshness_events import CHANGED, DATA, Rates, Send, cell
from benchmarks._freshness_site import wait
from encoders import Encoder, ImageLoader
from moontide import names
from moontide.live import load_spaces
from moontide.sequences import BehaviourSequence
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.views import user_sequence

PARTITIONS = 8
BATCH = Settings.model_fields["stream_encode_batch"].default
THREADS = Settings.model_fields["stream_encode_threads"].default
#: Longest wait for what a cell left behind.
DRAIN = 60.0


class Bare:
    """The encoder in a loop in this process: reading, decoding, tokenising and the model; the consumer's batches and threads."""

    def __init__(self, site, threads=THREADS):
        artifact = load_spaces(site.spaces).live("moon_v2").artifact
        self.encoder = Encoder.load(artifact, threads=threads, images=ImageLoader(DATA))

    def rate(self, items):
        """Items per second."""
        begun = time.perf_counter()
        for start in range(0, len(items), BATCH):
            self.encoder.encode(items[start : start + BATCH])
        return len(items) / (time.perf_counter() - begun)


def fill(site, catalog, shoppers):
    """Sequences written at once, items and impressions through the consumer; (items per second, until committed)."""
    store = online_store(Settings(home=site.home))
    write_sequences(store, user_sequence(), shoppers.sequences)
    store.close()
    sends = [Send(0.0, names.TOPIC_ITEM_EVENTS, n, catalog.event(n)) for n in catalog.items]
    site.produce(sends)
    begun = time.monotonic()
    settle(site)
    rate = len(sends) / (time.monotonic() - begun)
    site.produce(shoppers.impressions())
    settle(site)
    return rate


def write_sequences(store, view, sequences):
    """Sequences of real users, as the batch job would have left them."""
    made = [BehaviourSequence(tuple(rows)) for rows in sequences.values()]
    newest = [m.last_time for m in made]
    columns = {
        "user_id": list(sequences),
        "event_timestamp": newest,
        "created": newest,
        "item_ids": [list(m.item_ids) for m in made],
        "actions": [[b.action for b in m.behaviours] for m in made],
        "times": [[b.time for b in m.behaviours] for m in made],
        "sequence_version": [m.version for m in made],
    }
    store.write_rows(view, pa.table([pa.array(columns[f.name], f.type) for f in view.table], schema=view.table))


def settle(site, seconds=180.0):
    """Until the broker has an offset behind every record."""
    wait(site.committed, "commit", site.consumer, site.folder / "consumer.log", seconds)


def backlog_rate(site, catalog, sends):
    """(events per second until handled, until committed) of a backlog that was there before the consumer went on.

    Handled: the last event of every partition can be read.
    """
    last, probes = catalog.last_of_partitions(PARTITIONS)
    site.pause(site.consumer)
    watch = site.watch(probes, catalog)
    site.produce([*sends, *last])
    start = time.time()
    watch.go(start, start + 180)
    site.resume(site.consumer)
    seen = [seconds for _, _, _, seconds in watch.rows()]
    if None in seen:
        raise SystemExit(f"a backlog of {len(sends)} events was not handled in 180 s: {site.log('consumer')}")
    settle(site)
    count = len(sends) + len(last)
    return count / max(seen), count / (time.time() - start)


def throughput(site, catalog, bare, *, rounds, count):
    """Per round: the bare loop over the contents of `count` changes, then the consumer over those very changes."""
    found = {"bare": [], "handled": [], "committed": []}
    for _ in range(rounds):
        sends = catalog.backlog(count, catalog.change)
        site.pause(site.consumer)
        found["bare"].append(bare.rate(catalog.encoder_items([s.key for s in sends])))
        handled, committed = backlog_rate(site, catalog, sends)
        found["handled"].append(handled)
        found["committed"].append(committed)
    return found


def unchanged(site, catalog, *, rounds, count):
    """Events per second of each kind that needs no encoding."""
    found = {}
    for _ in range(rounds):
        for name, draw in (("the same event again", catalog.repeat), ("newer version, same content", catalog.same_content)):
            handled, committed = backlog_rate(site, catalog, catalog.backlog(count, draw))
            found.setdefault(name, {"handled": [], "committed": []})
            found[name]["handled"].append(handled)
            found[name]["committed"].append(committed)
    return found


def freshness(site, catalog, shoppers, *, load, capacity, seconds, behaviours, searched=2.0):
    """Open-loop events at `load` times the encoder's capacity for `seconds`; percentiles of each kind of probe, and stages."""
    rates = Rates(items=load * capacity / CHANGED, behaviours=behaviours, searched=searched)
    sends, probes = cell(catalog, shoppers, rates, seconds)
    watch = site.watch(probes, catalog)
    before, start = site.metrics(), time.time() + 1.0
    watch.go(start, start + seconds + DRAIN)
    sender = site.send(sends, start)()
    rows = watch.rows()
    drained = time.time() - start - seconds
    settle(site)
    return {
        "load": load,
        "events_per_second": round(len(sends) / seconds),
        "encoded_per_second": round(load * capacity),
        "seconds": seconds,
        "sender_late_p99_ms": round(sender["late_p99_ms"], 1),
        "drained_after_s": round(max(0.0, drained), 1),
        "probes": {kind: summary([r for r in rows if r[0] == kind]) for kind in ("readable", "search", "tier")},
        "stages": stages(before, site.metrics()),
    }


def summary(rows):
    """Percentiles in milliseconds of the probes of one kind, and how many were never seen."""
    seen = [r[3] * 1e3 for r in rows if r[3] is not None]
    found = {"probes": len(rows), "not_seen": len(rows) - len(seen)}
    if seen:
        p50, p90, p99 = np.percentile(seen, [50, 90, 99])
        found |= {"p50_ms": round(p50, 1), "p90_ms": round(p90, 1), "p99_ms": round(p99, 1), "max_ms": round(max(seen), 1)}
    return found


def stages(before, after):
    """What the consumer's own metrics say of the time between two scrapes: name -> (count, mean in ms)."""
    found = {}
    for name, value in after.items():
        base, _, labels = name.partition("{")
        if base.endswith("_seconds_sum"):
            count_name = base.removesuffix("sum") + "count" + (f"{{{labels}" if labels else "")
            count = after[count_name] - before.get(count_name, 0.0)
            if count:
                mean = (value - before.get(name, 0.0)) / count * 1e3
                key = base.removeprefix("moontide_").removesuffix("_seconds_sum") + (f" {labels.rstrip('}')}" if labels else "")
                found[key] = {"count": int(count), "mean_ms": round(mean, 2)}
    return found


def catch_up(site, catalog, shoppers, *, load, capacity, before, stop, after, behaviours):
    """The consumer stopped for `stop` seconds under load: seconds from its start until nothing is older than 1 s, for good."""
    rates = Rates(items=load * capacity / CHANGED, behaviours=behaviours, readable=30.0, searched=0.0, tiers=0.0)
    sends, probes = cell(catalog, shoppers, rates, before + stop + after)
    watch = site.watch(probes, catalog)
    start = time.time() + 1.0
    watch.go(start, start + before + stop + after + DRAIN)
    sent = site.send(sends, start)
    time.sleep(max(0.0, start + before - time.time()))
    site.stop_consumer()
    time.sleep(max(0.0, start + before + stop - time.time()))
    again = time.time() - start
    up = site.start_consumer(index_uri=site.index_uri) if site.index_uri else site.start_consumer()
    sent()
    rows = [(due, seconds) for _, _, due, seconds in watch.rows() if seconds is not None]
    caught = caught_up(sorted((due + seconds, seconds) for due, seconds in rows if due + seconds >= again))
    fresh = [seconds * 1e3 for due, seconds in rows if due > caught]
    settle(site)
    return {
        "load": load,
        "stopped_s": round(again - before, 1),
        "start_up_s": round(up, 1),
        "caught_up_s": round(caught - again, 1),
        "fresh_after_p50_ms": round(statistics.median(fresh), 1) if fresh else None,
        "not_seen": sum(seconds is None for *_, seconds in rows),
    }


def caught_up(seen, *, limit=1.0, calm=5.0):
    """The first moment from which, for `calm` seconds, nothing that became readable was older than `limit`."""
    old = [at for at, age in seen if age > limit]
    moments = [at for at, age in seen if age <= limit]
    return next((at for at in moments if not any(at <= o <= at + calm for o in old)), float("inf"))
