"""Freshness of the nearline consumer, from a real broker to the stores, beside a hand-written loop and Quix Streams.

    python -m benchmarks.freshness [--quick] [--out build/freshness] [--docs docs/benchmarks.md] [--skip-peers]

Real Kafka, the shipped encoder, LMDB, milvus-lite. Writes ``freshness.json`` and ``freshness.md`` to the folder and prints
the Markdown. Every load is a share of what the bare encoder does in this very run; events come in open loop, at the times of
a Poisson process, and every figure counts from the moment its event was due. An independent process looks for the effects.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _freshness_cells as cells
from benchmarks._freshness_events import Catalog, Shoppers
from benchmarks._freshness_report import markdown
from benchmarks._freshness_site import Site
from benchmarks._report import machine

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Plan:
    """How much of everything; the whole takes less than 15 minutes, `QUICK` less than three."""

    items: int = 10_000
    rounds: int = 4
    changes: int = 2_000
    unchanged: int = 15_000
    seconds: tuple = ((0.1, 30.0), (0.5, 45.0), (2.0, 15.0))
    embedded: float = 30.0
    stop: tuple = (10.0, 60.0, 55.0)
    behaviours: float = 20.0
    peer_rounds: int = 3
    peer_events: int = 300
    peer_seconds: float = 10.0


QUICK = Plan(1_500, 2, 300, 3_000, ((0.1, 6.0), (0.5, 8.0), (2.0, 4.0)), 6.0, (3.0, 6.0, 10.0), 20.0, 2, 80, 5.0)


def run(plan, folder, *, peers=True):
    """Every cell, in order; the results as they go into the JSON file."""
    begun = time.monotonic()
    catalog = Catalog(plan.items, searched=min(300, plan.items // 4))
    shoppers = Shoppers(catalog)
    results = {
        "machine": machine(),
        "items": plan.items,
        "cores": len(os.sched_getaffinity(0)),
        "batch": cells.BATCH,
        "threads": cells.THREADS,
    }
    site = Site(folder).start()
    try:
        say(begun, "broker is up; loading the catalog")
        site.serve_index()
        site.start_consumer(index_uri=site.index_uri)
        results["fill_per_second"] = cells.fill(site, catalog, shoppers)
        say(begun, "throughput")
        bare = cells.Bare(site)
        results["bare_all_cores"] = cells.Bare(site, os.cpu_count()).rate(catalog.encoder_items(catalog.ordinary[: plan.changes]))
        results["throughput"] = cells.throughput(site, catalog, bare, rounds=plan.rounds, count=plan.changes)
        capacity = results["capacity"] = sorted(results["throughput"]["bare"])[plan.rounds // 2]
        say(begun, f"unchanged events (bare encoder: {capacity:.0f} items/s)")
        results["unchanged"] = cells.unchanged(site, catalog, rounds=max(2, plan.rounds - 2), count=plan.unchanged)
        results["freshness"] = []
        for load, seconds in plan.seconds:
            say(begun, f"freshness at {load:.0%}")
            results["freshness"].append(
                cells.freshness(
                    site, catalog, shoppers, load=load, capacity=capacity, seconds=seconds, behaviours=plan.behaviours
                )
            )
        if peers:
            from benchmarks._freshness_peers import compare

            say(begun, "peers")
            results["peers"] = compare(site, catalog, plan, capacity)
        say(begun, "catching up after a stop")
        before, stop, after = plan.stop
        results["catch_up"] = cells.catch_up(
            site,
            catalog,
            shoppers,
            load=0.5,
            capacity=capacity,
            before=before,
            stop=stop,
            after=after,
            behaviours=plan.behaviours,
        )
    finally:
        site.close()
    say(begun, "freshness at 50% with milvus-lite inside the consumer")
    results["embedded"] = embedded(plan, folder / "embedded", capacity)
    results["load_after"] = os.getloadavg()[0]
    results["seconds"] = round(time.monotonic() - begun)
    return results


def embedded(plan, folder, capacity):
    """The 50 % cell again with the index as a file that the consumer owns; `search` is then its own histogram only."""
    catalog = Catalog(plan.items, searched=0, seed=3)
    shoppers = Shoppers(catalog)
    site = Site(folder).start()
    try:
        site.start_consumer()
        cells.fill(site, catalog, shoppers)
        return cells.freshness(
            site,
            catalog,
            shoppers,
            load=0.5,
            capacity=capacity,
            seconds=plan.embedded,
            behaviours=plan.behaviours,
            searched=0.0,
        )
    finally:
        site.close()


def say(begun, what):
    print(f"[{time.monotonic() - begun:5.0f} s, load {os.getloadavg()[0]:.1f}] {what}", flush=True)


def put_into(page, text):
    """Replace what stands between the two marks of a page."""
    begin, end = "<!-- freshness: begin -->\n", "<!-- freshness: end -->\n"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cells, to see that it works; its figures say nothing")
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "freshness")
    parser.add_argument("--docs", type=Path, help="a page whose figures are replaced, e.g. docs/benchmarks.md")
    parser.add_argument("--keep", action="store_true", help="keep stores and logs below --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=args.out))
    try:
        results = run(QUICK if args.quick else Plan(), folder, peers=not args.skip_peers)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    (args.out / "freshness.json").write_text(json.dumps(results, indent=2) + "\n")
    text = markdown(results)
    (args.out / "freshness.md").write_text(text)
    if args.docs:
        put_into(args.docs, text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
