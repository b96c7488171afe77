"""A real Kafka broker in a folder of its own, which a test may stop, kill and pause.

Tests and, from the repository's root, benchmarks: ``from tests.kafka_broker import KafkaBroker``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError

ROOT = Path(__file__).parents[1]
LIBS = ROOT / "build" / "kafka" / "libs"
START_SECONDS = 60
#: Half of Kafka's own heap: a test broker holds little, and several may run at once.
JVM = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]


def missing() -> str | None:
    """What a person has to do before a broker can start; None where nothing."""
    if not (LIBS.parent / "checked").exists():
        return f"Kafka's jars: expected in {LIBS}, got none; run: make setup-dev (or scripts/kafka.sh fetch)"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def java() -> str:
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else "java"


class KafkaBroker:
    """One broker that is its own controller. It keeps port and data over `stop`, `kill` and `start`.

    Args:
        folder: an own folder, made where it is missing: data, configuration, ``broker.log``.
        port: of the plaintext listener; a free one by default.
        properties: lines added to scripts/kafka/server.properties; they win over it.
    """

    def __init__(self, folder, *, port=None, properties=None):
        self.folder = Path(folder)
        self.port = port or free_port()
        self.properties = dict(properties or {})
        self._controller_port = free_port()
        self._listeners = {"PLAINTEXT": (self.port, self.port, "PLAINTEXT")}
        self._process = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the broker wrote so far."""
        path = self.folder / "broker.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def listen(self, name, *, protocol="PLAINTEXT", advertised_port=None) -> int:
        """Adds a listener and returns its port. Clients are told `advertised_port`: a proxy's. Call before `start`."""
        port = free_port()
        self._listeners[name] = (port, advertised_port or port, protocol)
        return port

    def start(self) -> KafkaBroker:
        """Formats the data folder at the first start, launches, and returns once a client gets metadata."""
        problem = missing()
        if problem:
            raise RuntimeError(problem)
        if self.running:
            raise RuntimeError(f"the broker on port {self.port} is running")
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self._configure()
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(config)
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(config)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Stops it in order (SIGTERM), killing it when that takes more than 30 s. No error where it is stopped."""
        if self.running:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL. No error where it is stopped."""
        if self.running:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def admin(self) -> KafkaAdminClient:
        """A client of the plaintext listener; close it."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=10_000)

    def create_topic(self, name, *, partitions=1, config=None) -> None:
        """Returns once every partition has a leader; no error where the topic exists."""
        admin = self.admin()
        try:
            admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1, "configs": config or {}}})
        except TopicAlreadyExistsError:
            pass
        finally:
            admin.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if len(self.end_offsets(name)) == partitions:
                    return
            except (KafkaError, AssertionError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{name}: expected {partitions} partitions with leaders within 20 s, got {self.end_offsets(name)}")

    def end_offsets(self, topic) -> dict[int, int]:
        """The next offset of each partition; empty where the topic is unknown."""
        return self._offsets(topic, "end_offsets")

    def start_offsets(self, topic) -> dict[int, int]:
        return self._offsets(topic, "beginning_offsets")

    def delete_records(self, topic, before: dict[int, int]) -> None:
        """Deletes what is below an offset per partition, as retention does."""
        admin = self.admin()
        try:
            admin.delete_records({TopicPartition(topic, partition): offset for partition, offset in before.items()})
        finally:
            admin.close()

    def _offsets(self, topic, which) -> dict[int, int]:
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=None, bootstrap_timeout_ms=10_000)
        try:
            partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
            found = getattr(consumer, which)(partitions) if partitions else {}
            return {partition.partition: offset for partition, offset in found.items()}
        finally:
            consumer.close(autocommit=False)

    def _command(self, main, *arguments) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={ROOT / 'scripts' / 'kafka' / 'log4j2.properties'}"
        return [java(), *JVM, log4j, "-cp", f"{LIBS}/*", main, *arguments]

    def _configure(self) -> Path:
        text = (ROOT / "scripts" / "kafka" / "server.properties").read_text()
        values = {"PORT": self.port, "CONTROLLER_PORT": self._controller_port, "DATA": self.folder.absolute() / "data"}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        shown = {"CONTROLLER": (self._controller_port, None, "PLAINTEXT"), **self._listeners}
        lines = {
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, (port, _, _) in shown.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, (_, port, _) in self._listeners.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, (_, _, protocol) in shown.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            **self.properties,
        }
        path = self.folder / "server.properties"
        path.write_text(text + "".join(f"{key}={value}\n" for key, value in lines.items()))
        return path

    def _format(self, config) -> None:
        # Any 16 bytes in URL-safe base64 are a cluster id.
        arguments = ["format", "--standalone", "-t", "bW9vbnRpZGUtdGVzdHMtMQ", "-c", str(config)]
        done = subprocess.run(self._command("kafka.tools.StorageTool", *arguments), capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"Kafka's data folder was not formatted: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                raise RuntimeError(f"the broker ended with {self._process.returncode}:\n{self.log[-3000:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                admin = self.admin()
                try:
                    if admin.describe_cluster()["brokers"]:
                        return
                finally:
                    admin.close()
            except (OSError, KafkaError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the broker did not answer on port {self.port} within {START_SECONDS} s:\n{self.log[-3000:]}")
