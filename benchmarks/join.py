"""Point-in-time join of labels with a feature log, Parquet to arrays: moontide beside DuckDB, Polars and Feast's stores.

First every system's answer is compared with brute force on 10,000 labels and with all of moontide's; lost rows are counted. Then
rounds are interleaved, each system in a process of its own. Run: ``python -m benchmarks.join [--small] [--workload codes]``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._join_data import NAMES, SMALL, Size, files, make, oracle
from benchmarks._join_systems import MARK, SYSTEMS
from benchmarks._peer_python import peer_python
from benchmarks._report import machine, ratio_interval, table

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "join-requirements.txt"
OURS = "moontide"
#: Systems that are timed twice only: one run takes minutes.
SLOW = ("Feast Spark", "Feast dask")
#: As many float lists as pandas objects do not fit the memory of a small machine.
SKIPPED = {("Feast dask", "floats"), ("Feast dask", "codes")}


class Worker:
    """One system, answering in turns."""

    def __init__(self, name: str, python: Path, folder: Path, workload: str, threads: int, labels: int) -> None:
        self.name, self.log = name, folder / f"{name.replace(' ', '-')}-{workload}.log"
        limits = {k: str(threads) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS")}
        arguments = [str(python), "-m", "benchmarks._join_systems", name, str(folder), workload, str(threads), str(labels)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log.open("w"), "text": True}
        environment = os.environ | limits | {"PYTHONPATH": str(ROOT), "FEAST_USAGE": "False"}
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=environment, **pipes)
        self.alive = self._reply() is not None

    def ask(self, line: str) -> dict | None:
        """What it says, or None where it died."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict | None:
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        return None

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def start(folder: Path, workload: str, systems: list[str], threads: int, labels: int) -> list[Worker]:
    workers = []
    for name in systems:
        if (name, workload) in SKIPPED and labels > SMALL.labels:
            continue
        python = peer_python(REQUIREMENTS, ROOT / "build" / "join-peers") if name.startswith("Polars") else Path(sys.executable)
        worker = Worker(name, python, folder, workload, threads, labels) if python else None
        if worker is None or not worker.alive:
            print(f"{name}: not run" + (f", see {worker.log}" if worker else ": its package cannot be installed"))
            continue
        workers.append(worker)
    return workers


def check(workers: list[Worker], folder: Path, workload: str) -> dict[str, str]:
    """Ask everyone once; stops where an answer that must be right is not. Returns what is to be said of each."""
    truth = oracle(folder, workload)
    known = truth.rows >= 0
    said, ours = {}, None
    for worker in workers:
        path = folder / "answer.npz"
        np.savez(path, labels=truth.labels)
        if worker.ask(f"answer {path}") is None:
            raise SystemExit(f"{worker.name} failed, see {worker.log}")
        got = dict(np.load(path))
        lost, twice = int((got["times"] == 0).sum()), int((got["times"] > 1).sum())
        looked_at = (got["times"][truth.labels] == 1) & ~(truth.late & worker.name.startswith("Feast"))
        same = got["present"][truth.labels] == known
        same &= (got["values"] == np.where(known[:, None], truth.values, 0)).all(axis=1)
        wrong = int((~same & looked_at).sum())
        ours = got if worker.name == OURS else ours
        apart = "" if ours is None else f", {int((got['digest'] != ours['digest']).sum()):,} of all rows unlike moontide's"
        said[worker.name] = f"{lost:,}"
        compared = f"{wrong} wrong of {int(looked_at.sum()):,} compared with brute force"
        print(f"{workload}, {worker.name}: {lost:,} rows lost, {twice:,} doubled, {compared}{apart}", flush=True)
        if wrong or twice or (lost and worker.name != "Feast dask"):
            raise SystemExit("nothing was timed")
    return said


def measure(workers: list[Worker], rounds: int) -> dict[str, list[dict]]:
    """Replies of each run, in turns (the run that was checked has warmed everyone)."""
    replies: dict[str, list[dict]] = {w.name: [] for w in workers}
    for number in range(rounds):
        for worker in workers:
            if worker.name in SLOW and number >= 2:
                continue
            took = worker.ask("run")
            if took is None:
                raise SystemExit(f"{worker.name} died, see {worker.log}")
            replies[worker.name].append(took)
    return replies


def report(workload: str, lost: dict[str, str], replies: dict[str, list[dict]], labels: int) -> str:
    """Processor time stands beside the clock's: on a machine that others use too it says more."""
    rows = []
    for name, given in replies.items():
        taken, cpu = ([reply[key] for reply in given] for key in ("seconds", "cpu"))
        ratio, low, high = ratio_interval(taken, [reply["seconds"] for reply in replies[OURS]])
        middle = statistics.median(taken)
        factor = "" if name == OURS else f"**{ratio:.2f}x** [{low:.2f}, {high:.2f}]"
        spread = f"{min(taken):.2f} to {max(taken):.2f}"
        rows.append(
            [name, f"{middle:.2f}", spread, f"{statistics.median(cpu):.2f}", len(taken), f"{labels / middle:,.0f}",
             f"{given[-1]['peak_mb']:,.0f}", lost[name], factor]
        )  # fmt: skip
    head = [workload, "median s", "min to max", "CPU s", "rounds", "labels/s", "peak MB", "rows lost", "moontide is faster by"]
    return table(head, rows)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="4,000 labels against 20,000 rows: to see that it works")
    parser.add_argument("--workload", choices=list(NAMES), nargs="+", default=list(NAMES))
    parser.add_argument("--systems", choices=list(SYSTEMS), nargs="+", default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the data is kept and reused; default: a temporary folder")
    flags = parser.parse_args(arguments)
    size = SMALL if flags.small else Size()
    print(f"{machine()}; {flags.threads} threads; {size}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (flags.folder or Path(temporary)).absolute()
        if not files(folder, "codes")[0].exists():
            make(folder, size)
        for workload in flags.workload:
            workers = start(folder, workload, flags.systems, flags.threads, size.labels)
            try:
                lost = check(workers, folder, workload)
                replies = measure(workers, flags.rounds)
            finally:
                for worker in workers:
                    worker.close()
            print("\n" + report(workload, lost, replies, size.labels) + "\n", flush=True)
    print(f"load after: {', '.join(f'{x:.2f}' for x in os.getloadavg())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
