"""Serving beside its peers: the kernel, ids to tiers, scalars with a vector, one request over HTTP, many callers.

    python -m benchmarks.serving [--small] [--items N] [--seconds 60] [--rounds 9] [--skip-feast] [--only CELL ...]
                                 [--docs docs/benchmarks.md] [--out build/serving]

Every system holds the same values and must give the oracle's answer before it is timed; calls are interleaved. Needs
redis-server; starts everything else by itself. `make bench-serving` writes the result into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import _serving_cells as cells
from benchmarks._report import machine, start_redis
from benchmarks._serving_cells import SMALL, Plan, Site
from benchmarks._serving_peers import FeastRedis, RawRedis
from benchmarks._serving_read import Sides, open_stores, open_table
from benchmarks._serving_report import put
from benchmarks._serving_world import World
from moontide.settings import Settings

ROOT = Path(__file__).parents[1]
CELLS: dict[str, Callable[[Site], str]] = {
    "tiers": cells.tiers, "scalars": cells.scalars, "http": cells.over_http, "load": cells.load,
}  # fmt: skip
KERNEL = "kernel"


def run(plan: Plan, folder: Path, *, feast: bool, only: tuple[str, ...]) -> str:
    """The cells named by `only`, as one text under the machine line."""
    begun, before, found = time.monotonic(), machine(), []
    with ExitStack() as stack:
        redis, port = start_redis(folder)
        stack.callback(redis.wait)
        stack.callback(redis.terminate)
        if KERNEL in only:
            say(begun, KERNEL)
            found.append(cells.kernel(plan))
        if set(only) & set(CELLS):
            say(begun, f"filling {plan.size.items:,} items")
            site = fill(plan, folder, port, feast=feast)
            stack.callback(shutil.rmtree, site.sides.table_folder, ignore_errors=True)
            stack.callback(site.sides.close)
            for name, cell in CELLS.items():
                if name in only:
                    say(begun, name)
                    found.append(cell(site))
    notes = [
        before, f"load after {os.getloadavg()[0]:.2f}", f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}",
        f"{plan.rounds} rounds, one more before them dropped", f"{time.monotonic() - begun:.0f} s in all",
        *([] if feast else ["Feast was left out"]),
    ]  # fmt: skip
    return "\n\n".join([f"{'; '.join(notes)}.", *found])


def fill(plan: Plan, folder: Path, port: int, *, feast: bool) -> Site:
    """The same values into every system."""
    world = World.make(plan.size)
    homes = {
        "LMDB": Settings(home=folder / "lmdb" / "home", online="lmdb"),
        "Redis": Settings(home=folder / "redis", online="redis", redis_url=f"redis://127.0.0.1:{port}/1"),
    }
    stores = open_stores(world, homes)
    raw = RawRedis(port, 3, world)
    raw.packed(world)
    peer = None
    if feast:
        peer = FeastRedis(port, 2, folder / "feast")
        peer.fill(world)
        peer.fill_tiers(world.requests, [world.tiers(r) for r in world.requests], plan.size.length)
    memory = Path(tempfile.mkdtemp(prefix="moontide-bench-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else folder))
    table = open_table(stores["LMDB"], world, memory)
    return Site(folder, port, Sides(world, folder, memory, stores, table, raw, peer), plan)


def say(begun: float, what: str) -> None:
    """Progress."""
    print(f"[{time.monotonic() - begun:5.0f} s, load {os.getloadavg()[0]:.1f}] {what}", flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny cells, to see that it works; its figures say nothing")
    parser.add_argument("--items", type=int, help="items of every store (default 20,000)")
    parser.add_argument("--seconds", type=float, help="of 16 callers (default 60)")
    parser.add_argument("--rounds", type=int, help="of each timed cell (default 9)")
    parser.add_argument("--skip-feast", action="store_true")
    parser.add_argument("--only", nargs="+", choices=(KERNEL, *CELLS), default=(KERNEL, *CELLS))
    parser.add_argument("--docs", type=Path, help="a page whose figures are replaced, e.g. docs/benchmarks.md")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "serving")
    args = parser.parse_args()
    plan = SMALL if args.small else Plan()
    plan = replace(plan, rounds=args.rounds or plan.rounds, size=replace(plan.size, items=args.items or plan.size.items))
    if args.seconds:
        plan = replace(plan, seconds=args.seconds, other_seconds=min(plan.other_seconds, args.seconds))
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=args.out.resolve()))
    try:
        text = run(plan, folder, feast=not args.skip_feast, only=tuple(args.only))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (args.out / "serving.md").write_text(text + "\n")
    if args.docs:
        args.docs.write_text(put(args.docs.read_text(), text))
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
