"""How long a ranker waits for its features after retrieval, with and without prefetch: python -m examples.prefetch_latency.

One simulated request: retrieval takes 20 ms and gives 500 candidates; then their vectors and tiers against the user's last 1,000
behaviours are read, from LMDB in process and from a feature server over HTTP. With prefetch the user's side is read while
retrieval runs. Requests with and without take turns, so that both meet the same machine, and their values are compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks._serving_world import TIERS_ONLY, Request, Size, World
from moontide.cli.console import table
from moontide.cli.demo import environment
from moontide.cli.process import Program, free_port
from moontide.client import Client
from moontide.errors import MoontideError
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.prefetch import PrefetchCache

CHECKOUT = Path(__file__).resolve().parents[1]
RETRIEVAL = 0.020
WARM_UP = 10


class Ranker:
    """Asks for features as a ranker does: after retrieval.

    Args:
        client: in process or over HTTP.
    """

    def __init__(self, client: RankingClient | Client) -> None:
        self._client = client
        self._beside = ThreadPoolExecutor(1)
        self._number = 0
        self.came: Counter[str] = Counter()

    def ask(self, request: Request, *, prefetch: bool) -> tuple[pa.Table, float]:
        """Features of one request, and the milliseconds waited for them when the candidates were there."""
        self._number += 1
        request_id = f"r{self._number}"
        if prefetch:
            self._beside.submit(self._client.prefetch, request.user, request_id=request_id, service=TIERS_ONLY)
        time.sleep(RETRIEVAL)
        start = time.perf_counter()
        found = self._client.features(request.user, request.ids, service=TIERS_ONLY, request_id=request_id)
        took = 1e3 * (time.perf_counter() - start)
        if prefetch:
            self.came[found.schema.metadata[b"prefetch"].decode()] += 1
        return found, took

    def close(self) -> None:
        """Wait for what runs beside."""
        self._beside.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description="Latency after retrieval, with and without prefetch.")
    parser.add_argument("--requests", type=int, default=200, help="of each kind")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--behaviours", type=int, default=1_000)
    args = parser.parse_args(argv)
    world = World.make(Size(items=args.items, candidates=args.candidates, length=args.behaviours))
    try:
        with tempfile.TemporaryDirectory() as folder:
            lines = measured(world, Path(folder), args.requests)
    except (MoontideError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print("\n".join(lines))  # noqa: T201
    return 0


def measured(world: World, home: Path, requests: int) -> list[str]:
    """The table."""
    live = world.live(home)
    store = online_store(Settings(home=home, lmdb_map_size=4 << 30))
    world.fill(store)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*environment(home), sys.executable, "-m", "serving", "--port", str(port)]
    rows = []
    with ExitStack() as stack:
        inside = stack.enter_context(RankingClient(store, live, prefetched=PrefetchCache(time.monotonic)))
        stack.enter_context(Program("feature server", command, CHECKOUT, home / "serving.log", f"{url}/readyz").running())
        over = stack.enter_context(Client(url, timeout=30.0))
        for name, client in (("in process, LMDB", inside), ("over HTTP, Arrow", over)):
            rows += compared(name, client, world, requests)
    head = ("ms that the ranker waits after retrieval", "p50", "p99", "user's side")
    return table(rows, head=head, right=(1, 2))


def compared(name: str, client: RankingClient | Client, world: World, requests: int) -> list[tuple[str, str, str, str]]:
    """Two rows of the table: without and with prefetch, in turns."""
    ranker, took = Ranker(client), {False: list[float](), True: list[float]()}
    for number in range(WARM_UP + requests):
        request, found = world.next(), {}
        for prefetch in (False, True) if number % 2 else (True, False):
            found[prefetch], waited = ranker.ask(request, prefetch=prefetch)
            took[prefetch].append(waited)
        require_right(world, request, found, oracle=number < WARM_UP)
    ranker.close()
    came = ", ".join(f"{outcome} {count}" for outcome, count in ranker.came.most_common())
    return [
        (f"{name}, {label}", *(f"{np.percentile(took[prefetch][WARM_UP:], q):.2f}" for q in (50, 99)), said)
        for label, prefetch, said in (("no prefetch", False, "read then"), ("prefetch", True, came))
    ]


def require_right(world: World, request: Request, found: dict[bool, pa.Table], *, oracle: bool) -> None:
    """Both ways gave the same values; with `oracle` also those of the one that shares no code with the library.

    Raises:
        MoontideError: they did not.
    """
    same = found[True].equals(found[False])
    if oracle and same:
        same = np.array_equal(np.stack(found[True]["counts"].to_numpy()), world.tiers(request))
    if not same:
        raise MoontideError(f"user {request.user}: expected equal values with and without prefetch, got different ones")


if __name__ == "__main__":
    raise SystemExit(main())
