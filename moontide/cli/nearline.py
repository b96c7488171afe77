"""The nearline part of the demo: a broker, the consumer, a file of events; all of it stopped at the end, however it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moontide.cli.console import say
from moontide.cli.process import Program, free_port
from moontide.errors import Transient
from moontide.names import TOPIC_DEAD_LETTERS

EVENTS: Final = "examples/events.jsonl"
#: Events a second, so that what is measured is the way of an event and not the length of a queue.
_RATE: Final = 60
_APPLIED_SECONDS: Final = 120.0
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


@dataclass(frozen=True, slots=True)
class Nearline:
    """Where the broker and the consumer of one demo are.

    Attributes:
        checkout: the repository.
        out: folder of the demo; the broker's data and the logs lie there.
        environment: arguments of ``env`` for everything the demo runs.
        port, metrics_port: of the broker, and of the consumer's pages.
    """

    checkout: Path
    out: Path
    environment: tuple[str, ...]
    port: int
    metrics_port: int

    @classmethod
    def made(cls, checkout: Path, out: Path, environment: Sequence[str]) -> Nearline:
        """On free ports of the loopback interface."""
        port, metrics_port = free_port(), free_port()
        values = {
            "MOONTIDE_KAFKA_SERVERS": f"127.0.0.1:{port}",
            "MOONTIDE_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
            "MOONTIDE_STREAM_PORT": metrics_port,
            "MOONTIDE_STREAM_GROUP": "moontide-demo",
            "MOONTIDE_IMAGE_ROOT": checkout / "examples" / "data",
        }
        return cls(checkout, out, (*environment, *(f"{name}={value}" for name, value in values.items())), port, metrics_port)

    @property
    def broker_command(self) -> tuple[str, ...]:
        """Starts the broker."""
        return (str(self.checkout / "scripts" / "kafka.sh"), "start", "--port", str(self.port), "--data", str(self.out / "kafka"))

    @property
    def topics_command(self) -> tuple[str, ...]:
        """Makes the topics."""
        return (sys.executable, "-m", "streaming.topics")

    @property
    def consumer_command(self) -> tuple[str, ...]:
        """Runs the consumer."""
        return (sys.executable, "-m", "streaming", "--log-level", "WARNING")

    @property
    def produce_command(self) -> tuple[str, ...]:
        """Sends the events."""
        program = Path(sys.executable).with_name("moontide")
        return (str(program), "produce", str(self.checkout / EVENTS), "--rate", str(_RATE))

    @contextmanager
    def broker(self) -> Iterator[None]:
        """Stops the broker at the end, also where it did not come up."""
        try:
            yield
        finally:
            stop = [self.broker_command[0], "stop", "--data", str(self.out / "kafka")]
            subprocess.run(stop, cwd=self.checkout, check=False, stderr=subprocess.DEVNULL)

    def consumer(self) -> AbstractContextManager[None]:
        """The consumer, ready; it has finished what it began when this ends.

        Raises:
            Transient: as `Program.running`.
        """
        command = [*self.environment, *self.consumer_command]
        ready = f"http://127.0.0.1:{self.metrics_port}/readyz"
        return Program("consumer", command, self.checkout, self.out / "consumer.log", ready).running()

    def wait_applied(self) -> dict[str, Any]:
        """Once every event of the file is settled and durable: verdicts and freshness, from the consumer's own metrics.

        Raises:
            Transient: that took too long.
        """
        sent = len((self.checkout / EVENTS).read_text(encoding="utf-8").splitlines())
        ends = time.monotonic() + _APPLIED_SECONDS
        while True:
            metrics = self._metrics()
            verdicts = _by_label(metrics, "moontide_events_total", "verdict")
            if sum(verdicts.values()) >= sent:
                return {"sent": sent, "verdicts": verdicts, **_freshness(metrics)}
            if time.monotonic() > ends:
                got = f"{sum(verdicts.values()):.0f} of {sent} events settled in {_APPLIED_SECONDS:.0f} s"
                raise Transient(f"demo: expected all, got {got}; see {self.out / 'consumer.log'}")
            time.sleep(0.25)

    def dead_letters(self) -> list[dict[str, str]]:
        """What the dead-letter topic holds: key, reason, detail, and where each came from."""
        from kafka import TopicPartition

        from moontide.settings import load_settings
        from streaming import clients
        from streaming.dead_letters import CONNECT, OURS

        settings = load_settings(kafka_servers=f"127.0.0.1:{self.port}", kafka_security_protocol="PLAINTEXT")
        consumer = clients.consumer(settings, topics=(), group_id=None, group_instance_id=None)
        found = []
        try:
            mine = [TopicPartition(TOPIC_DEAD_LETTERS, n) for n in consumer.partitions_for_topic(TOPIC_DEAD_LETTERS) or ()]
            consumer.assign(mine)
            ends = consumer.end_offsets(mine)
            while any(consumer.position(p) < end for p, end in ends.items()):
                for records in consumer.poll(timeout_ms=500).values():
                    found += [(record.key, record.value, dict(record.headers)) for record in records]
        finally:
            consumer.close(autocommit=False)
        wanted = {
            "topic": CONNECT + "topic",
            "partition": CONNECT + "partition",
            "offset": CONNECT + "offset",
            "detail": CONNECT + "exception.message",
            "reason": OURS + "reason",
        }
        return [
            {
                "key": (key or b"").decode("utf-8", "replace"),
                "value": (value or b"").decode("utf-8", "replace"),
                **{name: headers[header].decode() for name, header in wanted.items()},
            }
            for key, value, headers in found
        ]

    def _metrics(self) -> dict[tuple[str, str], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        samples = (_SAMPLE.match(line) for line in lines if not line.startswith("#"))
        return {(m[1], m[2] or ""): float(m[3]) for m in samples if m}


def keep(note: dict[str, Any], letters: list[dict[str, str]], path: Path) -> None:
    """Keep the figures and dead letters of a run for the report."""
    path.write_text(json.dumps({**note, "letters": letters}, indent=2) + "\n", encoding="utf-8")
    counts = ", ".join(f"{int(n)} {verdict}" for verdict, n in sorted(note["verdicts"].items()) if n)
    say(f"{note['sent']} events settled and durable: {counts}")


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """A quantile of a cumulative histogram (upper bound, count), as Prometheus estimates it; None where it is empty."""
    ordered = sorted(buckets)
    total = ordered[-1][1] if ordered else 0.0
    below, count_below = 0.0, 0.0
    for bound, count in ordered:
        if total and count >= share * total:
            inside = count - count_below
            return below if bound == float("inf") else below + (bound - below) * (share * total - count_below) / max(inside, 1e-9)
        below, count_below = bound, count
    return None


def _freshness(metrics: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    names = {
        "readable": ("moontide_event_to_readable_seconds", 'topic="item-events"'),
        "searchable": ("moontide_event_to_searchable_seconds", ""),
        "tiers": ("moontide_behaviour_to_tier_seconds", ""),
    }
    found: dict[str, Any] = {}
    for what, (name, label) in names.items():
        buckets = [
            (float(re.findall(r'le="([^"]+)"', labels)[0]), count)
            for (base, labels), count in metrics.items()
            if base == name + "_bucket" and label in labels
        ]
        found[what] = {"p50": quantile(buckets, 0.5), "p99": quantile(buckets, 0.99)}
    return found


def _by_label(metrics: Mapping[tuple[str, str], float], name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for (base, labels), value in metrics.items():
        if base == name:
            word = re.findall(rf'{label}="([^"]+)"', labels)[0]
            found[word] = found.get(word, 0.0) + value
    return found
