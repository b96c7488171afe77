"""Soak of the online stores: writers and readers in processes of their own, killed with SIGKILL at random.

Every write is a pure function of (writer, batch number), so the oracle needs no log of values. A writer notes each batch
before it writes and after the store answered, and repeats what was not answered when it comes back. Every vector carries its
item, space and version in its codes, so a reader can tell a torn, mixed or never-written record from a committed one.

Run: ``python -m benchmarks.soak --online lmdb --items 1000000 --minutes 10`` (and ``--online redis``).
Exit code 0: every read was some committed version and the final state equals the oracle; 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import soak_worker as worker
from benchmarks._report import machine, start_redis
from moontide.stores.base import Status

ROLES = [*((role, n) for role, count in (("write", 2), ("read", 4), ("drain", 1)) for n in range(count))]


@dataclass
class Tally:
    """What the run saw."""

    kills: int = 0
    sizes: list[tuple[float, int]] = field(default_factory=list)


def start(role: str, number: int, config: Path) -> subprocess.Popen[bytes]:
    """One worker process."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.soak_worker", role, str(number), str(config)])


def soak(config: Path, minutes: float, seed: int) -> Tally:
    """Run the workers, kill one every 2 to 6 seconds, sample the size of the store; ends with a clean stop."""
    chance = random.Random(seed)
    run = worker.Run.load(config)
    processes = {role: start(*role, config) for role in ROLES}
    tally = Tally()
    begun = time.monotonic()
    next_kill, next_size = begun + 5, begun
    while (now := time.monotonic()) < begun + minutes * 60:
        if now >= next_size:
            tally.sizes.append((now - begun, run.size()))
            next_size = now + 5
        if now >= next_kill:
            role = chance.choice(ROLES)
            processes[role].kill()
            processes[role].wait()
            tally.kills += 1
            processes[role] = start(*role, config)
            next_kill = now + chance.uniform(2, 6)
        for role, process in processes.items():
            if process.poll() not in (None, 0):
                if process.returncode != -9:
                    raise SystemExit(f"{role} ended with {process.returncode}; see its output above")
                processes[role] = start(*role, config)
        time.sleep(0.05)
    (run.folder / "stop").touch()
    for process in processes.values():
        process.wait(timeout=120)
    tally.sizes.append((time.monotonic() - begun, run.size()))
    return tally


def verify(config: Path) -> tuple[int, int]:
    """Compare every item of both spaces with the oracle: (records compared, differences)."""
    run = worker.Run.load(config)
    expected = run.oracle()
    store, differences = run.open(), 0
    for space in worker.SPACES:
        for begin in range(0, run.items, 10_000):
            numbers = np.arange(begin, min(begin + 10_000, run.items))
            ids = worker.item_ids(numbers)
            heads = store.heads(worker.view(space), ids)
            got = store.read_embeddings(space, ids)
            want = expected[numbers]
            gone = worker.is_delete(want)
            wrong = heads.source_version != want
            wrong |= (heads.status == Status.DELETED) != gone
            wrong |= got.present == gone
            wrong |= ~gone & (got.codes != worker.codes(space, numbers, want)).any(axis=1)
            differences += int(wrong.sum())
    return run.items * len(worker.SPACES), differences


def growth(sizes: list[tuple[float, int]]) -> tuple[int, int, float]:
    """Bytes at one third, at the end, and the growth over the last third as a share."""
    end = sizes[-1][0]
    third = next(size for at, size in sizes if at >= end / 3)
    two_thirds = next(size for at, size in sizes if at >= 2 * end / 3)
    return third, sizes[-1][1], sizes[-1][1] / two_thirds - 1


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--online", choices=["lmdb", "redis"], default="lmdb")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, url = None, ""
        if args.online == "redis":
            server, port = start_redis(folder)
            url = f"redis://127.0.0.1:{port}/0"
        config = folder / "run.json"
        config.write_text(json.dumps({"folder": name, "online": args.online, "url": url, "items": args.items}))
        try:
            loaded = time.monotonic()
            worker.Run.load(config).preload()
            loaded = time.monotonic() - loaded
            tally = soak(config, args.minutes, args.seed)
            compared, differences = verify(config)
            totals = worker.Run.load(config).totals()
        finally:
            if server is not None:
                server.terminate()
    third, last, late = growth(tally.sizes)
    bad = differences + totals["violations"]
    print(
        f"soak {args.online}: {args.items:,} items x 2 spaces, {args.minutes:g} min, seed {args.seed}; {before}\n"
        f"| preload s | kills | batches written | reads checked | bad reads | records compared | differences "
        f"| size at 1/3 MB | size at end MB | growth in last third |\n|---|---|---|---|---|---|---|---|---|---|\n"
        f"| {loaded:.0f} | {tally.kills} | {totals['batches']:,} | {totals['reads']:,} | {totals['violations']} | {compared:,} "
        f"| {differences} | {third / 1e6:.0f} | {last / 1e6:.0f} | {late:+.1%} |"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
