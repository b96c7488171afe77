"""One site in a folder of its own: broker, Milvus server, home, and the consumer as a process that may be stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from benchmarks._freshness_events import DATA, write_probes, write_sends
from moontide import names
from tests.kafka_broker import KafkaBroker, free_port

ROOT = Path(__file__).parents[1]
SAMPLE = re.compile(r"^(\w+?)(?:\{(.*)\})? ([\d.e+-]+|NaN|\+Inf)$")
_BIG = {"max.message.bytes": str(9 << 20)}


class Site:
    """Broker, Milvus server and consumer below `folder`; `close` ends all of them."""

    def __init__(self, folder, *, server=True):
        self.folder = Path(folder)
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        text = (ROOT / "feature_repo" / "spaces.toml").read_text()
        self.spaces = self.home / "spaces.toml"
        self.spaces.write_text(re.sub(r"^artifact = .*$", f'artifact = "{ROOT / "artifacts" / "moon_v2"}"', text, flags=re.M))
        self.broker = KafkaBroker(self.folder / "kafka")
        self.port = free_port()
        self.consumer = None
        self.milvus = None
        self.index_uri = ""
        self._processes = []
        self._cells = 0

    def start(self):
        self.broker.start()
        for topic in (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS):
            self.broker.create_topic(topic, partitions=8, config=_BIG)
        self.broker.create_topic(names.TOPIC_DEAD_LETTERS, partitions=8, config=_BIG)
        self.broker.create_topic(names.TOPIC_ITEM_EMBEDDINGS, partitions=8, config={"cleanup.policy": "compact"})
        return self

    def serve_index(self):
        """milvus-lite in server mode on loopback, so that a second process can search."""
        port = free_port()
        command = [Path(sys.executable).with_name("milvus-lite"), "server", "--host", "127.0.0.1", "--port", str(port)]
        self.milvus = self.spawn("milvus", [*command, "--data-dir", str(self.folder / "milvus")])
        self.index_uri = f"http://127.0.0.1:{port}"
        wait(lambda: _answers(port), "milvus-lite server")

    def start_consumer(self, **settings):
        """Start it and wait until it is ready; returns the seconds that took."""
        begun = time.monotonic()
        env = {
            "MOONTIDE_HOME": self.home,
            "MOONTIDE_SPACES_FILE": self.spaces,
            "MOONTIDE_INDEX_URI": self.index_uri,
            "MOONTIDE_KAFKA_SERVERS": self.broker.bootstrap,
            "MOONTIDE_STREAM_PORT": self.port,
            "MOONTIDE_IMAGE_ROOT": DATA,
            # A benchmark stops it for longer than a session while its peers run.
            "MOONTIDE_STREAM_SESSION_MS": 300_000,
            **{f"MOONTIDE_{k.upper()}": v for k, v in settings.items()},
        }
        self.consumer = self.spawn("consumer", [sys.executable, "-m", "streaming", "--log-level", "WARNING"], env)
        wait(self.ready, "consumer", self.consumer, self.folder / "consumer.log")
        return time.monotonic() - begun

    def stop_consumer(self):
        self.consumer.send_signal(signal.SIGTERM)
        self.consumer.wait(60)

    def ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self):
        """name{labels} -> value, as `/metrics` shows them now."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=20).read().decode()
        found = (SAMPLE.match(line) for line in page.splitlines() if not line.startswith("#"))
        return {f"{m[1]}{{{m[2]}}}" if m[2] else m[1]: float(m[3]) for m in found if m}

    def committed(self):
        """Whether the broker has the offset behind every record for the consumer's group."""
        found = self.metrics()
        got = {
            (t, p): found.get(f'moontide_committed_offset{{partition="{p}",topic="{t}"}}', 0)
            for t in (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS)
            for p in range(8)
        }
        return all(got[t, p] >= end for t in {t for t, _ in got} for p, end in self.broker.end_offsets(t).items())

    def pause(self, process):
        process.send_signal(signal.SIGSTOP)

    def resume(self, process):
        process.send_signal(signal.SIGCONT)

    def produce(self, sends):
        """Send all at once and wait until the broker has them."""
        started = self.send(sends, 0.0)
        return started()

    def send(self, sends, start):
        """Send when due, from `start` (Unix time) on; returns what waits for the end and gives the sender's own report."""
        self._cells += 1
        path, out = self.folder / f"sends{self._cells}.jsonl", self.folder / f"sent{self._cells}.json"
        write_sends(path, sends)
        command = [sys.executable, "-m", "benchmarks._freshness_send", self.broker.bootstrap, str(path), str(start), str(out)]
        process = self.spawn(f"send{self._cells}", command)

        def done():
            if process.wait(600):
                raise SystemExit(f"the sender failed: {self.log(f'send{self._cells}')}")
            path.unlink()
            report = json.loads(out.read_text())
            if report["failed"]:
                raise SystemExit(f"the broker did not take {report['failed']} records")
            return report

        return done

    def watch(self, probes, catalog, *, system="moontide", **where):
        """A watching process that is warm; call with (start, until), then with nothing for its rows."""
        number = self._cells + 1
        path, out, searched = (self.folder / f"{n}{number}" for n in ("probes", "rows", "searched"))
        write_probes(path, probes)
        entities = {p.entity for p in probes if p.kind == "search"}
        fields = ("title", "description", "attributes", "image")
        contents = {n: catalog.items[n].content for n in entities}
        searched.write_text(json.dumps([{"item_id": n, **{f: getattr(c, f) for f in fields}} for n, c in contents.items()]))
        config = {"system": system, "probes": str(path), "out": str(out), "searched": str(searched), "spaces": str(self.spaces)}
        config |= {"home": str(self.home), "index": self.index_uri, "collection": "items__moon_v2", **where}
        (self.folder / "watch.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "benchmarks._freshness_probe", str(self.folder / "watch.json")]
        return Watch(self.spawn(f"watch{number}", command, pipes=True), out)

    def spawn(self, name, command, env=None, *, pipes=False):
        log = (self.folder / f"{name}.log").open("ab")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTIDE_")}
        clean |= {k: str(v) for k, v in (env or {}).items()} | {"PYTHONWARNINGS": "ignore"}
        ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True} if pipes else {"stdout": log}
        process = subprocess.Popen([str(c) for c in command], stderr=log, cwd=ROOT, env=clean, **ends)
        self._processes.append(process)
        return process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3_000:]

    def close(self):
        for process in self._processes[::-1]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()
        self.broker.kill()


class Watch:
    """A watching process."""

    def __init__(self, process, out):
        self._process = process
        self._out = out
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("the watching process did not start; see its log")

    def go(self, start, until):
        self._process.stdin.write(json.dumps({"start": start, "until": until}) + "\n")
        self._process.stdin.flush()

    def rows(self):
        """(kind, entity, due, seconds or None) of every probe."""
        self._process.wait(600)
        return [json.loads(line) for line in self._out.read_text().splitlines()]


def wait(condition, what, process=None, log=None, seconds=90.0):
    """Until `condition`, at most `seconds`."""
    ends = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"{what} ended with {process.returncode}: {log.read_text()[-3000:] if log else ''}")
        if time.monotonic() > ends:
            raise SystemExit(f"{what}: expected it within {seconds:.0f} s, got nothing {log.read_text()[-3000:] if log else ''}")
        time.sleep(0.02)


def _answers(port):
    import socket

    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
