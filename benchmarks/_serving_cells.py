"""The cells of the serving benchmark: which calls, on what, timed how."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _serving_http as http
from benchmarks import _serving_report as report
from benchmarks._report import interleave
from benchmarks._serving_peers import FEAST_ITEMS
from benchmarks._serving_read import Sides, gate, scalar_cells, tier_cells
from benchmarks._serving_world import SERVICE, Size, spaces_toml
from serving.client import RankingClient
from serving.reading import StoreVectors
from serving.table import VectorTables
from tests.serving_site import ServingSite


@dataclass(frozen=True)
class Plan:
    """How much of everything; `SMALL` is for seeing that it works."""

    size: Size = Size()
    rounds: int = 9
    ours: int = 40
    peers: int = 5
    seconds: float = 60.0
    other_seconds: float = 30.0
    callers: int = 16
    workers: tuple[int, ...] = (1, 2)


SMALL = Plan(Size(1_000, 3, 6, 40, 60), rounds=3, ours=3, peers=1, seconds=2.0, other_seconds=2.0, callers=4)


@dataclass(frozen=True)
class Site:
    """Everything that is opened for a run."""

    folder: Path
    redis_port: int
    sides: Sides
    plan: Plan


def timed(site: Site, cells: Mapping[str, Callable[[Any], Any]]) -> dict[str, list[float]]:
    """Seconds of each call, interleaved, with what is alive kept from the garbage collector's way, for all alike."""
    world, plan = site.sides.world, site.plan
    few = ("Feast", "DuckDB")
    calls = {name: plan.peers if name.startswith(few) else plan.ours for name in cells}
    gc.collect()
    gc.freeze()
    try:
        timed = {name: (lambda cell=cell: cell(world.next())) for name, cell in cells.items()}
        return interleave(timed, rounds=plan.rounds, calls=calls)
    finally:
        gc.unfreeze()


def kernel(plan: Plan) -> str:
    """The kernel's own benchmark."""
    from benchmarks import serving_kernel

    found = serving_kernel.section(small=plan.size.items <= SMALL.size.items)
    return f"### The kernel\n\n`python -m benchmarks.serving_kernel`. {found}"


def tiers(site: Site) -> str:
    """Ids to tiers."""
    cells = tier_cells(site.sides, threads=2)
    off = gate(cells, site.sides.world, site.sides.world.tiers)
    return report.tiers(timed(site, cells), off, note(site, "DuckDB may use two threads, all others one."))


def scalars(site: Site) -> str:
    """30 scalars and a vector."""
    cells = scalar_cells(site.sides)
    gate(cells, site.sides.world, site.sides.world.matrix)
    text = (
        "Ours: one view of 30 floats and the embedding, two packed reads. Feast: 10 + 20 scalars and the vector in three views."
    )
    return report.scalars(timed(site, cells), note(site, text))


def over_http(site: Site) -> str:
    """One caller."""
    size, sides = site.plan.size, site.sides
    live = sides.world.live(site.folder)
    held = VectorTables(sides.table_folder, StoreVectors(sides.stores["LMDB"]))
    inside = {kind: RankingClient(store, live) for kind, store in sides.stores.items()}
    inside["table"] = RankingClient(sides.stores["LMDB"], live, vectors=held)
    for client in inside.values():
        client.warm_up()
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(server(site, kind).start()) for kind in inside}
        feast = http.FeastServer(sides.feast) if sides.feast is not None else None
        if feast is not None:
            stack.callback(feast.stop)
        answer = inside["LMDB"].features("user:0", sides.world.requests[0].ids, service=SERVICE)
        echo = http.Echo(answer.nbytes)
        stack.callback(echo.stop)
        cells = http.added_cells(http.Servers(servers, feast), inside, echo.port)
        http.check(cells, sides.world)
        times = timed(site, cells)
    text = (
        f"{size.candidates} candidates: vector, tiers, price and category; one kept-alive connection; ids encoded and "
        "answer decoded in the time. Feast's server has no tiers at request time: it got those of these pairs, computed ahead."
    )
    return report.added(times, f"{text} Every answer was checked first.")


def load(site: Site) -> str:
    """Many callers; ours with each number of workers, then Feast's server."""
    plan, world = site.plan, site.sides.world
    runs = []
    for kind in ("LMDB", "table", "Redis"):
        for workers in plan.workers if kind != "Redis" else plan.workers[:1]:
            with server(site, kind).start(workers=workers) as started:
                name = f"moontide, {kind}, {workers} worker{'s' if workers > 1 else ''}"
                seconds = plan.seconds if kind == "LMDB" else plan.other_seconds
                runs.append(
                    (name, http.load(world, site.folder / "load", started, kind="arrow", seconds=seconds, callers=plan.callers))
                )
    if site.sides.feast is not None:
        feast = http.FeastServer(site.sides.feast)
        try:
            found = http.load(
                world, site.folder / "feast-load", feast, kind="feast", seconds=plan.other_seconds, callers=plan.callers
            )
        finally:
            feast.stop()
        runs.append(("Feast feature server, Redis, 1 worker", found))
    text = (
        f"{plan.callers} callers, {plan.size.candidates} candidates, Arrow (Feast: JSON). The callers share the cores with the "
        "server: requests per processor second of the server say what a core gives. Every tenth answer was checked."
    )
    client = RankingClient(site.sides.stores["LMDB"], world.live(site.folder))
    client.warm_up()
    begun = time.process_time()
    for _ in range(100):
        request = world.next()
        client.features(request.user, request.ids, service=SERVICE)
    return report.loads(runs, text, (time.process_time() - begun) / 100)


def server(site: Site, kind: str) -> ServingSite:
    """Ours on that kind's filled store; the table is loaded from LMDB's."""
    spec, items = site.plan.size.spec, site.plan.size.items
    settings = {"serving_table": "on", "serving_table_rows": items} if kind == "table" else {}
    url = f"redis://127.0.0.1:{site.redis_port}/1" if kind == "Redis" else None
    return ServingSite(site.folder / ("redis" if url else "lmdb"), spaces_toml(spec), redis_url=url, settings=settings)


def note(site: Site, more: str) -> str:
    """What was asked, in words."""
    size = site.plan.size
    held = f" Feast held only the items of the {size.requests} requests." if size.items > FEAST_ITEMS else ""
    return (
        f"{size.candidates} candidates (1 % unknown) x {size.length:,} behaviours, {size.items:,} items of 128 dimensions, drawn "
        f"by Zipf's law. {more}{held}"
    )
