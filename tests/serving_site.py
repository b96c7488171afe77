"""``python -m serving`` as a process on a free loopback port, over a feature repository of its own: for tests and benchmarks."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

from tests.kafka_broker import free_port

ROOT = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


class ServingSite:
    """A repository folder and, once started, the server on it.

    Args:
        folder: gets ``repo/`` (``feature_store.yaml``, ``spaces.toml``), ``home/`` and ``server.log``.
        spaces: text of ``spaces.toml``.
        redis_url: the online store; None: LMDB below ``home``.
        settings: ``MOONTIDE_<NAME>`` of the server, by lower-case name.
    """

    def __init__(self, folder: Path, spaces: str, *, redis_url: str | None = None, settings: dict[str, object] | None = None):
        self.folder, self.home, self.repo = folder, folder / "home", folder / "repo"
        self.home.mkdir(parents=True, exist_ok=True)
        self.repo.mkdir(exist_ok=True)
        self.log = folder / "server.log"
        (self.repo / "spaces.toml").write_text(spaces)
        kind = "Lmdb" if redis_url is None else "Redis"
        (self.repo / "feature_store.yaml").write_text(
            "project: moontide\nprovider: local\nregistry: registry.db\n"
            f"online_store:\n  type: moontide.stores.feast_plugin.{kind}OnlineStore\n"
            "entity_key_serialization_version: 3\nauth:\n  type: no_auth\n"
        )
        self._settings: dict[str, object] = {"home": self.home, "spaces_file": self.repo / "spaces.toml", **(settings or {})}
        if redis_url is not None:
            self._settings["redis_url"] = redis_url
        self.port = 0
        #: What answers are checked against; None: the server speaks no TLS.
        self.tls: ssl.SSLContext | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, workers: int = 1, seconds: float = 240.0) -> ServingSite:
        """Start it and wait until ``/readyz`` answers 200.

        Raises:
            RuntimeError: it ended, or was not ready within `seconds`; with the end of its log.
        """
        self.port = free_port()
        command = [sys.executable, "-m", "serving", "--repo", str(self.repo), "--host", "127.0.0.1", "--port", str(self.port)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTIDE_")}
        clean |= {f"MOONTIDE_{k.upper()}": str(v) for k, v in self._settings.items()} | {"PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", str(workers), *options], stdout=log, stderr=log, cwd=self.folder, env=clean
            )
        ends = time.monotonic() + seconds
        while self.status("/readyz") != 200:
            if self._process.poll() is not None or time.monotonic() > ends:
                self.stop()
                raise RuntimeError(f"serving: expected it ready, got: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        return self

    @property
    def pid(self) -> int:
        """Of the process that was started: the supervisor where there are several workers."""
        assert self._process is not None
        return self._process.pid

    def status(self, path: str) -> int:
        """Status of a GET; 0 where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        if self.tls is not None:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=self.tls)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def children(self) -> list[int]:
        """Processes below it that are workers, oldest first."""
        return [pid for pid in descendants(self.pid) if b"spawn_main" in _read(pid, "cmdline")]

    def cpu_seconds(self) -> float:
        """Processor seconds of the server and all below it, so far."""
        return sum(map(cpu_seconds, [self.pid, *descendants(self.pid)]))

    def stop(self) -> None:
        """End it in order, or by force after 15 s."""
        if self._process is None or self._process.poll() is not None:
            return
        below = descendants(self.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            for pid in below:
                if _read(pid, "cmdline"):
                    os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> ServingSite:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def descendants(pid: int) -> list[int]:
    """Processes below one, parents first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(part) for part in task.read_text().split()]
        except OSError:
            continue
        for child in below:
            found += [child, *descendants(child)]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system seconds of one process; 0 once it is gone."""
    fields = _read(pid, "stat").rpartition(b") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
