"""The cells over HTTP: what the network adds to one request, and many callers at once; beside Feast's own feature server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from benchmarks._serving_callers import ARROW, JSON, Caller, counts_of, table_of
from benchmarks._serving_peers import FeastRedis
from benchmarks._serving_read import GATED
from benchmarks._serving_world import SERVICE, Request, World
from moontide.client import Client
from serving.client import RankingClient
from tests.kafka_broker import free_port
from tests.serving_site import ServingSite, cpu_seconds, descendants

ROOT = Path(__file__).parents[1]
FEATURES = "/v1/features"
FEAST_PATH = "/get-online-features"
_FEAST_FEATURES = [
    "item_embedding:embedding", "user_item_simtier:counts", "user_item_simtier:missing", "item_features:price",
    "item_features:category",
]  # fmt: skip
Ask = Callable[[Request], Any]


class FeastServer:
    """``feast serve`` with one worker, without its access log."""

    def __init__(self, peer: FeastRedis) -> None:
        self.port = free_port()
        command = [str(Path(sys.executable).with_name("feast")), "-c", str(peer.folder), "serve"]
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-access-log", "--workers", "1"]
        self._log = (peer.folder / "server.log").open("wb")
        self._process = subprocess.Popen([*command, *options], stdout=self._log, stderr=self._log, cwd=peer.folder)
        ends = time.monotonic() + 120
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends:
                self.stop()
                raise SystemExit(f"feast serve did not start: {(peer.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        with suppress(urllib.error.URLError, OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).status == 200)
        return False

    def cpu_seconds(self) -> float:
        """Processor seconds so far, workers included."""
        return sum(map(cpu_seconds, [self._process.pid, *descendants(self._process.pid)]))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._log.close()


@dataclass(frozen=True)
class Servers:
    """What is running: ours by kind, and Feast's where it is not left out."""

    ours: Mapping[str, ServingSite]
    feast: FeastServer | None


def arrow_body(request: Request) -> bytes:
    """One column of ids, the rest in the schema's metadata."""
    table = pa.table({"item_id": request.ids}).replace_schema_metadata({"user_id": request.user, "service": SERVICE})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def json_body(request: Request) -> bytes:
    """The same as JSON."""
    return orjson.dumps({"user_id": request.user, "item_ids": request.ids, "service": SERVICE})


def feast_body(request: Request) -> bytes:
    """The same values asked of Feast: one entity row per pair."""
    entities = {"user_id": [request.user] * len(request.ids), "item_id": request.ids}
    return orjson.dumps({"features": _FEAST_FEATURES, "entities": entities})


BODIES = {"arrow": arrow_body, "json": json_body, "feast": feast_body}


def added_cells(servers: Servers, inside: Mapping[str, RankingClient], floor: int) -> dict[str, Ask]:
    """One request at a time: in process, over HTTP in each form, Feast's server, and `floor`, a server that only sends bytes."""
    cells: dict[str, Ask] = {}
    for kind, client in inside.items():
        cells[f"in process, {kind}"] = _inside(client)
    for kind, site in servers.ours.items():
        cells[f"HTTP Arrow, {kind}"] = _post(site.port, "arrow")
        cells[f"HTTP JSON, {kind}"] = _post(site.port, "json")
        cells[f"HTTP Arrow, {kind}, moontide.client"] = _client(site.port)
    if servers.feast is not None:
        cells["Feast feature server, JSON, Redis"] = _post(servers.feast.port, "feast")
    echo = Caller(floor, "/", ARROW)
    cells["floor: a thread that answers as many bytes"] = lambda request: echo.post(arrow_body(request))
    return cells


def check(cells: Mapping[str, Ask], world: World) -> None:
    """Every cell's tiers, vectors, prices and categories against the oracle.

    Raises:
        SystemExit: one differs; nothing may be timed.
    """
    for request in world.requests[:GATED]:
        expected = answer_of(world, request)
        for name, cell in cells.items():
            if name.startswith("floor"):
                continue
            got = _plain(cell(request))
            for part, value in expected.items():
                if got[part] != value:
                    raise SystemExit(f"{name}: {part} differs from the oracle; nothing was timed")


def answer_of(world: World, request: Request) -> dict[str, list[Any]]:
    """What a service of item fields must answer, as lists."""
    known = (request.rows >= 0).tolist()
    features = world.features(request.rows)
    return {
        "counts": world.tiers(request).tolist(),
        "missing": np.where(request.rows < 0, world.size.length, 0).tolist(),
        "embedding": [row if there else None for row, there in zip(world.floats(request.rows).tolist(), known, strict=True)],
        **{name: [value if there else None for value, there in zip(features[name], known, strict=True)] for name in features},
    }


def _plain(answer: Any) -> dict[str, list[Any]]:
    """Any system's answer as lists of Python values, floats at float32."""
    if isinstance(answer, pa.Table):
        return {name: answer.column(name).to_pylist() for name in answer.column_names}
    if "results" in answer:
        columns = {n: r["values"] for n, r in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)}
    else:
        columns = answer["columns"]
    columns["price"] = [None if v is None else float(np.float32(v)) for v in columns["price"]]
    columns["embedding"] = [np.array(v, np.float32).tolist() if v else None for v in columns["embedding"]]
    return dict(columns)


def _inside(client: RankingClient) -> Ask:
    return lambda request: client.features(request.user, request.ids, service=SERVICE)


def _post(port: int, kind: str) -> Ask:
    caller = Caller(port, FEAST_PATH if kind == "feast" else FEATURES, ARROW if kind == "arrow" else JSON)
    body, read = BODIES[kind], table_of if kind == "arrow" else orjson.loads
    return lambda request: read(caller.post(body(request)))


def _client(port: int) -> Ask:
    client = Client(f"http://127.0.0.1:{port}", timeout=30.0)
    return lambda request: client.features(request.user, request.ids, service=SERVICE)


class Echo:
    """The floor of a round trip, in a process of its own."""

    def __init__(self, size: int) -> None:
        command = [sys.executable, "-m", "benchmarks._serving_callers", "echo", str(size)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def load(world: World, folder: Path, server: ServingSite | FeastServer, *, kind: str, seconds: float, callers: int) -> Any:
    """Many callers for some seconds: what `_serving_callers` reports, and the server's own processor seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, request in enumerate(world.requests):
        (folder / f"{number:04}.body").write_bytes(BODIES[kind](request))
        np.save(folder / f"{number:04}.npy", world.tiers(request))
    plan = {"port": server.port, "path": FEAST_PATH if kind == "feast" else FEATURES, "kind": kind}
    (folder / "plan.json").write_text(json.dumps(plan | {"seconds": seconds, "callers": callers, "folder": str(folder)}))
    before = server.cpu_seconds()
    command = [sys.executable, "-m", "benchmarks._serving_callers", "call", str(folder / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=seconds + 120)
    if done.returncode:
        raise SystemExit(f"the callers failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    return found | {"cpu": server.cpu_seconds() - before}


__all__ = ["Echo", "FeastServer", "Servers", "added_cells", "arrow_body", "check", "counts_of", "load"]
