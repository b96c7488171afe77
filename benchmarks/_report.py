"""What every benchmark shares: interleaved rounds, percentiles, the machine line, a Markdown table."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import redis


def machine() -> str:
    """One line: processor count, model, kernel, load before the run."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, load before {load}"


def interleave(
    cells: Mapping[str, Callable[[], object]], *, rounds: int, calls: Mapping[str, int], seconds: float = 120.0
) -> dict[str, list[float]]:
    """Seconds per call of every cell, A B A B ...; the first round is dropped. Stops early, on a whole round, after `seconds`."""
    times: dict[str, list[float]] = {name: [] for name in cells}
    begun = time.perf_counter()
    for number in range(rounds + 1):
        for name, call in cells.items():
            taken = []
            for _ in range(calls[name]):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
            if number:
                times[name] += taken
        if number >= 3 and time.perf_counter() - begun > seconds:
            break
    return times


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """min, p50, p99 in milliseconds."""
    p50, p99 = np.percentile(values, [50, 99])
    return min(values) * 1e3, float(p50) * 1e3, float(p99) * 1e3


def ratio_interval(slow: Sequence[float], fast: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of medians with a 95 % bootstrap interval: (ratio, low, high)."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(slow), np.asarray(fast)
    draws = [np.median(rng.choice(a, len(a))) / np.median(rng.choice(b, len(b))) for _ in range(500)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return statistics.median(slow) / statistics.median(fast), float(low), float(high)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows)])


def kilobytes(pid: int, name: str) -> int:
    """A memory figure of a process, such as ``RssAnon`` or ``VmHWM``; 0 once it is gone."""
    try:
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def start_redis(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A redis-server of this run's own, on loopback, without persistence."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = shutil.which("redis-server") or "redis-server"
    args = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(args, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    return server, port
