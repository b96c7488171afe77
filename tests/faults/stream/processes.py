"""The processes of a run: consumers under test, a milvus-lite server, and the thread that watches committed offsets."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.faults.stream.evidence import Sample, parse_audit
from tests.kafka_broker import free_port

PROGRAM = Path(__file__).with_name("consumer.py")


class Consumer:
    """One consumer under test, as a process of its own.

    Args:
        folder: for its configuration, control files and log.
        name: names them.
        settings: fields of `Settings`.
        encoder: which encoder, see consumer.py.
        point: what its trace does, see `sinks.Points`.
    """

    def __init__(self, folder, name, settings, *, encoder="stub", point=None):
        self.name = name
        self.control = folder / f"{name}.control"
        self.control.mkdir(exist_ok=True)
        self.port = settings["stream_port"]
        self.log_path = folder / f"{name}.log"
        self.settings = settings
        if point:
            self.wish("point", **point)
        config = folder / f"{name}.json"
        config.write_text(json.dumps({"settings": settings, "control": str(self.control), "encoder": encoder}))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOONTIDE_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        self.started = time.monotonic()

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process.poll() is None

    @property
    def stopped(self):
        """Whether a SIGSTOP holds it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    @property
    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wish(self, name, **fields):
        """Write a control file; no fields take it away."""
        path = self.control / f"{name}.json"
        if not fields:
            path.unlink(missing_ok=True)
            return
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps(fields))
        whole.rename(path)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL, and whatever it is stopped at; returns the exit code."""
        if self.running:
            self.process.kill()
        return self.process.wait(30)

    def terminate(self, timeout=40):
        """SIGTERM; (exit code, seconds it took)."""
        since = time.monotonic()
        self.process.terminate()
        return self.process.wait(timeout), time.monotonic() - since

    def wait(self, timeout):
        return self.process.wait(timeout)

    def get(self, page):
        """(status, text) of a page; (0, reason) where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{page}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def counters(self):
        """{(topic, verdict): count} of its /metrics; None where it does not answer."""
        status, text = self.get("metrics")
        if status != 200:
            return None
        found = {}
        for line in text.splitlines():
            if line.startswith("moontide_events_total{"):
                labels, _, value = line.removeprefix("moontide_events_total{").partition("} ")
                label = dict(part.split("=", 1) for part in labels.replace('"', "").split(","))
                found[label["topic"], label["verdict"]] = int(float(value))
        return found

    def metric(self, start):
        """Sum of the values of metrics whose line begins with `start`."""
        return sum(float(line.rpartition(" ")[2]) for line in self.get("metrics")[1].splitlines() if line.startswith(start))

    def rss(self):
        """Resident bytes."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except (FileNotFoundError, IndexError):
            return 0

    def limit_files(self, size):
        """RLIMIT_FSIZE of the running process: what a full disk does to files that grow; None lifts it."""
        resource.prlimit(
            self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if size is None else size, resource.RLIM_INFINITY)
        )


class MilvusServer:
    """milvus-lite's server mode on loopback, which may be killed, paused and started again."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "milvus_lite", "server", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise RuntimeError("the milvus-lite server does not listen")

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class Sampler(threading.Thread):
    """Every 200 ms: what is committed, and after that what the audit file proves durable, from outside the consumer."""

    def __init__(self, bootstrap, group, audit):
        super().__init__(daemon=True)
        self._servers, self._of_group, self._durable = bootstrap, group, Durable(audit)
        self._last = {}
        self._ends = threading.Event()
        self._since = time.monotonic()
        self.starts = {}
        self.samples = []
        self.looks = self.failed = 0

    def run(self):
        admin = None
        while not self._ends.wait(0.2):
            try:
                admin = admin or KafkaAdminClient(
                    bootstrap_servers=self._servers, bootstrap_timeout_ms=2_000, request_timeout_ms=3_000
                )
                committed = admin.list_group_offsets(self._of_group)[self._of_group]
            except (KafkaError, OSError, KeyError):
                self.failed += 1
                if admin is not None:
                    admin.close()
                admin = None
                continue
            self._look(committed)
        if admin is not None:
            admin.close()

    def stop(self):
        self._ends.set()
        self.join(20)

    def _look(self, committed):
        self.looks += 1
        durable = self._durable.read(self.starts)
        at = time.monotonic() - self._since
        for tp, offset in committed.items():
            place = (tp.topic, tp.partition)
            sample = Sample(at, *place, offset.offset, durable.get(place, self.starts.get(place, 0)))
            if self._last.get(place) != offset.offset or sample.committed > sample.durable:
                self._last[place] = offset.offset
                self.samples.append(sample)


class Durable:
    """How far an audit file proves each partition durable: 1 + the highest offset up to which every record has a line."""

    def __init__(self, path):
        self._path, self._at = path, 0
        self._seen, self._next = {}, {}

    def read(self, starts):
        """(topic, partition) -> next offset, after reading what was appended since; `starts` where the log begins above 0."""
        for line in self._lines():
            place = (line.topic, line.partition)
            self._seen.setdefault(place, set()).add(line.offset)
        for place, seen in self._seen.items():
            at = max(self._next.get(place, 0), starts.get(place, 0))
            while at in seen:
                at += 1
            self._next[place] = at
        return dict(self._next)

    def _lines(self):
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")
        self._at += len(whole[0]) + len(whole[1])
        return parse_audit(whole[0])[0]
