"""One run of one scenario: broker, topics, ledger, consumers, and at the end the evidence and the findings."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from moontide import names
from moontide.live import load_spaces
from moontide.settings import Settings
from tests.faults.stream import checks, views
from tests.faults.stream.evidence import Evidence, read_audit
from tests.faults.stream.ledger import HEADER, VALID, Ledger
from tests.faults.stream.processes import Consumer, MilvusServer, Sampler
from tests.faults.stream.workload import BEHAVIOURS, ITEMS, Maker
from tests.kafka_broker import KafkaBroker, free_port

ROOT = Path(__file__).parents[3]
DIM = 64
PARTITIONS = {ITEMS: 4, BEHAVIOURS: 2, names.TOPIC_ITEM_EMBEDDINGS: 2, names.TOPIC_DEAD_LETTERS: 1}
_MESSAGE_BYTES = 9 << 20
_CHUNK = 250
SPACES = """
[[space]]
name = "fault"
version = 1
dim = {dim}
artifact = "no-such-artifact"

[[simtier]]
space = "fault_v1"
tiers = 20
length = 20
"""
_RUNS = itertools.count()


class Broken(AssertionError):
    """The consumer did not do what the scenario waits for."""


@dataclass
class Figures:
    """What one run counted; `findings` must be empty."""

    scenario: str
    fault: str
    seed: int
    events: int = 0
    acked: int = 0
    kills: int = 0
    kills_of_others: int = 0
    interruptions: int = 0
    applied: int = 0
    stale: int = 0
    unchanged: int = 0
    dead: int = 0
    lost: int = 0
    duplicated: int = 0
    stale_overwrites: int = 0
    zombies: int = 0
    mixed: int = 0
    unsafe_commits: int = 0
    samples: int = 0
    recovery: list[float] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    findings: int = 0
    explained: str = ""


class Rig:
    """What a scenario works with. Everything it makes lies in `folder`.

    Args:
        broker: a running broker; its topics are made anew.
        folder: an own folder, which must not exist.
        figures: what is counted.
        size: factor of the number of events.
    """

    def __init__(self, broker: KafkaBroker, folder: Path, figures: Figures, size: float = 1.0):
        folder.mkdir(parents=True)
        self.broker, self.folder, self.figures, self.size = broker, folder, figures, size
        self.seed = figures.seed
        self.maker = Maker(self.seed)
        self.ledger = Ledger(folder / "ledger.db")
        self.group = f"faults-{next(_RUNS)}"
        self.home = folder / "home"
        self.home.mkdir()
        self.audit = folder / "audit.jsonl"
        (self.home / "spaces.toml").write_text(SPACES.format(dim=DIM))
        self.base = {
            "home": str(self.home),
            "kafka_servers": broker.bootstrap,
            "lmdb_map_size": 1 << 28,
            "lmdb_sync": False,
            "stream_group": self.group,
            "stream_audit_file": str(self.audit),
            "stream_session_ms": 4_000,
            "stream_poll_interval_ms": 30_000,
            "stream_checkpoint_seconds": 0.7,
            "stream_checkpoint_events": 500,
            "stream_poll_records": 200,
            "stream_candidates": 20,
            "stream_encode_batch": 64,
        }
        self.consumers: list[Consumer] = []
        self.committed_before: dict = {}
        self.starts: dict = {}
        self._remade_topics()
        self._producer = None
        self.prepared = None
        self.stops: list = []
        self.unmounts: list = []
        self.samples: list = []
        self.looks = 0
        self.sampler = Sampler(broker.bootstrap, self.group, self.audit)
        self.sampler.start()

    # Events

    def count(self, events):
        """So many events at this run's size."""
        return max(20, int(events * self.size))

    def produce(self, records, *, rate=None):
        """Send, noting the intent before and the acknowledgement after; returns how many were acknowledged.

        Args:
            records: what to send, in order.
            rate: records a second; default: as fast as it goes.
        """
        acked = 0
        for start in range(0, len(records), _CHUNK if rate is None else max(1, rate // 10)):
            some = records[start : start + (_CHUNK if rate is None else max(1, rate // 10))]
            began = time.monotonic()
            self.ledger.intend([record.row for record in some])
            acked += self._send(some)
            if rate is not None:
                time.sleep(max(0.0, len(some) / rate - (time.monotonic() - began)))
        self.figures.events += len(records)
        return acked

    def producing(self, records, *, rate):
        """`produce` in a thread; join it."""
        thread = threading.Thread(target=self.produce, args=(records,), kwargs={"rate": rate}, daemon=True)
        thread.start()
        return thread

    def _send(self, records):
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self.broker.bootstrap,
                acks="all",
                enable_idempotence=True,
                max_request_size=_MESSAGE_BYTES,
                delivery_timeout_ms=60_000,
                request_timeout_ms=5_000,
                max_block_ms=60_000,
                linger_ms=2,
            )
        pending = []
        for r in records:
            headers = [*r.headers, (HEADER, r.row.send.encode())]
            pending.append(
                (
                    r.row.send,
                    self._producer.send(r.row.topic, r.value, r.key, headers, partition=r.partition, timestamp_ms=r.timestamp_ms),
                )
            )
        places, failed = [], 0
        for send, future in pending:
            try:
                at = future.get(timeout=90)
                places.append((send, at.partition, at.offset))
            except KafkaError:
                failed += 1
        self.ledger.acked(places)
        if failed:
            # After a failed send the order of an idempotent producer is no longer known.
            self._producer.close(timeout=1)
            self._producer = None
        return len(places)

    # Consumers

    def start(self, *, wait=True, encoder="stub", point=None, wishes=None, **settings):
        """A consumer; with `wait`, once it has its partitions. `wishes`: control files by name."""
        merged = {**self.base, **settings, "stream_port": free_port()}
        made = Consumer(self.folder, f"consumer{len(self.consumers)}", merged, encoder=encoder, point=point)
        for name, fields in (wishes or {}).items():
            made.wish(name, **fields)
        self.consumers.append(made)
        if wait:
            self.until(lambda: "assigned" in made.log or not made.running, 40, "the consumer to be assigned partitions")
        return made

    def until(self, condition, timeout, what):
        """Wait for a condition; returns the seconds it took."""
        since = time.monotonic()
        while not condition():
            if time.monotonic() - since > timeout:
                raise Broken(f"waited {timeout} s for {what}; {self._logs()}")
            time.sleep(0.05)
        return time.monotonic() - since

    def new_group(self, *consumers):
        """Stop the consumers in order and go on with a group that has read nothing; its verdicts go to a file of their own."""
        for consumer in consumers:
            consumer.terminate()
        self.sampler.stop()
        self.samples += self.sampler.samples
        self.looks += self.sampler.looks
        self.group = f"faults-{next(_RUNS)}"
        self.audit = self.folder / f"{self.group}.jsonl"
        self.base |= {"stream_group": self.group, "stream_audit_file": str(self.audit)}
        self.sampler = Sampler(self.broker.bootstrap, self.group, self.audit)
        self.sampler.start()

    def replay_dead_letters(self):
        """``moontide replay-dlq``: every dead letter back to its topic; what comes back counts as good."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOONTIDE_")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "MOONTIDE_HOME": str(self.home),
            "MOONTIDE_KAFKA_SERVERS": self.broker.bootstrap,
            "MOONTIDE_STREAM_SESSION_MS": "6000",
        }
        command = [sys.executable, "-m", "moontide", "replay-dlq"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Broken(f"replay-dlq ended with {done.returncode}: {done.stdout}{done.stderr}")

    def add_partitions(self, topic, count):
        """More partitions: keys move."""
        admin = self.broker.admin()
        try:
            admin.create_partitions({topic: count})
        finally:
            admin.close()
        self.until(lambda: len(self.broker.end_offsets(topic)) == count, 20, "new partitions")
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def note(self, sent):
        """Ledger rows of what did not come through Kafka."""
        self.ledger.intend(sent)

    def milvus(self):
        """A milvus-lite server, which the consumers and the checks use instead of the file."""
        server = MilvusServer(self.home / "index.db").start()
        self.stops.append(server.kill)
        self.base["index_uri"] = server.uri
        return server

    def expect_death(self, consumer, timeout=60, code=-9):
        """Wait until a consumer dies by its own hand."""
        self.until(lambda: not consumer.running, timeout, f"{consumer.name} to end")
        if consumer.process.returncode != code:
            raise Broken(f"{consumer.name} ended with {consumer.process.returncode}, expected {code}; {self._logs()}")
        self.figures.kills += code == -9

    def kill(self, consumer):
        """SIGKILL from outside."""
        consumer.kill()
        self.figures.kills += 1

    def lines(self):
        """How many verdicts there are so far."""
        return self.audit.read_bytes().count(b'"verdict"') if self.audit.exists() else 0

    def ends(self):
        """(topic, partition) -> end offset of the event topics."""
        return {(t, p): o for t in (ITEMS, BEHAVIOURS) for p, o in self.broker.end_offsets(t).items()}

    def committed(self):
        """(topic, partition) -> committed offset."""
        admin = self.broker.admin()
        try:
            found = admin.list_group_offsets(self.group)[self.group]
            return {(tp.topic, tp.partition): at.offset for tp, at in found.items()}
        except KafkaError:
            return {}
        finally:
            admin.close()

    def lag(self):
        """Records that are not committed."""
        done = self.committed()
        return sum(end - done.get(place, self.starts.get(place, 0)) for place, end in self.ends().items())

    def quiesce(self, timeout=90, *, recovery=False, restart=False):
        """Wait until all that is in the log is committed; the time counts as a recovery where it follows a fault.

        With `restart`, a consumer that ended by itself is started again, as a supervisor would.
        """
        since = time.monotonic()
        while left := self.lag():
            if time.monotonic() - since > timeout:
                raise Broken(f"{left:,} records are not committed after {timeout} s; {self._logs(threads=True)}")
            if restart and not any(c.running for c in self.consumers):
                self.figures.interruptions += 1
                self.start()
            if not any(c.running for c in self.consumers):
                raise Broken(f"no consumer runs and {left:,} records are not committed; {self._logs()}")
            time.sleep(0.15)
        took = time.monotonic() - since
        if recovery:
            self.figures.recovery.append(took)
        return took

    # The end

    def finish(self, *, most_duplicates=None):
        """Kill what runs, gather the evidence and check it.

        Args:
            most_duplicates: bound of repeated verdicts; default: what the kills and interruptions explain.
        """
        evidence = self.gather()
        found = self.findings(evidence)
        if most_duplicates is None:
            held = self.base["stream_poll_records"] * 3 + self.base["stream_checkpoint_events"] * 2
            most_duplicates = (self.figures.kills + self.figures.interruptions) * held
        found += checks.bounded_duplicates(evidence, most_duplicates)
        return self.conclude(evidence, found)

    def findings(self, evidence, *, vectors=None):
        """All checks; `vectors` stands in for the comparison with the stub's vectors."""
        live = load_spaces(self.home / "spaces.toml")
        return checks.all_findings(evidence, [entry.space for entry in live.spaces], vectors=vectors)

    def gather(self):
        """Ask the living consumers for their counters, kill them, and read everything they left."""
        counters = [(c.pid, c.counters()) for c in self.consumers if c.running and not c.stopped]
        for consumer in self.consumers:
            if consumer.running:
                consumer.kill()
        self.sampler.stop()
        self._note_landed()
        lines, torn = read_audit(self.audit)
        evidence = Evidence(self.ledger.all(), lines, torn, self.ends(), dict(self.starts), self.committed())
        evidence.counters = [(pid, counted) for pid, counted in counters if counted is not None]
        evidence.samples = self.samples + self.sampler.samples
        live = load_spaces(self.home / "spaces.toml")
        views.read_stores(evidence, Settings(**self.base), live)
        records, _ = views.read_topic(self.broker.bootstrap, names.TOPIC_DEAD_LETTERS)
        evidence.dead = [views.dead_of(record) for record in records]
        records, _ = views.read_topic(self.broker.bootstrap, names.TOPIC_ITEM_EMBEDDINGS)
        for entry in live.spaces:
            evidence.views[entry.space.id].changes = views.change_rows(records, entry.space)
        return evidence

    def conclude(self, evidence, found):
        """Count, and explain the first findings."""
        f, tally = self.figures, checks.tally(evidence)
        kinds = checks.Counter(finding.kind for finding in found)
        f.acked = sum(s.acked for s in evidence.sent)
        f.applied, f.stale, f.unchanged, f.dead = (tally[v] for v in checks.VERDICTS)
        f.lost = kinds["lost"] + kinds["missing"]
        f.duplicated = checks.duplicates(evidence)
        f.stale_overwrites, f.zombies, f.mixed = kinds["stale_overwrite"], kinds["zombie"], kinds["mixed"]
        f.unsafe_commits, f.samples = kinds["unsafe_commit"], self.looks + self.sampler.looks
        f.findings = len(found)
        if found:
            f.explained = checks.explain(evidence, found) + f"\n{self._logs()}"
        return f

    def close(self):
        """Stop everything and remove the folder, but for a run that failed."""
        for consumer in self.consumers:
            if consumer.running:
                consumer.kill()
        if self.sampler.is_alive():
            self.sampler.stop()
        if self._producer is not None:
            self._producer.close(timeout=1)
        for stop in self.stops:
            stop()
        for folder in self.unmounts:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        self.ledger.close()
        if not self.figures.findings and not self.figures.explained:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _note_landed(self):
        """Find in the log what was not acknowledged; a record that was and is not there is the broker's loss."""
        sent = {s.send: s for s in self.ledger.all()}
        seen, landed, replayed = set(), [], []
        for topic in (ITEMS, BEHAVIOURS):
            records, ends = views.read_topic(self.broker.bootstrap, topic)
            for partition, (start, _) in ends.items():
                if start:
                    self.starts[topic, partition] = start
            for record in records:
                send, at = views.send_of(record), (record.partition, record.offset)
                s = sent.get(send)
                if s is None:
                    continue
                if s.acked and at != (s.part, s.off):
                    still = s.kind if not s.entity else VALID
                    replayed.append(replace(s, send=f"{send}@{record.offset}", kind=still, part=at[0], off=at[1]))
                    continue
                seen.add(send)
                if not s.acked:
                    landed.append((send, *at))
        self.ledger.landed(landed)
        self.ledger.intend(replayed)
        logged = [s for s in sent.values() if s.acked and s.topic in (ITEMS, BEHAVIOURS)]
        gone = [s for s in logged if s.send not in seen and s.off >= self.starts.get((s.topic, s.part), 0)]
        if gone:
            raise Broken(f"the broker lost {len(gone)} acknowledged records, first {gone[0]}")
        if landed:
            self.figures.notes.append(f"{len(landed)} records landed without an acknowledgement")

    def delete_topics(self, topics):
        """Delete those of the topics that exist, and wait until they are gone."""
        admin = self.broker.admin()
        try:
            there = set(admin.list_topics()) & set(topics)
            if there:
                admin.delete_topics(sorted(there))
            self.until(lambda: not set(admin.list_topics()) & there, 30, "topics to be deleted")
        finally:
            admin.close()

    def make_topic(self, topic, config=None):
        """Make a topic, or change the settings of one that is there."""
        config = {"max.message.bytes": str(_MESSAGE_BYTES), **(config or {})}
        if topic == names.TOPIC_ITEM_EMBEDDINGS:
            config["cleanup.policy"] = "compact"
        self.broker.create_topic(topic, partitions=PARTITIONS[topic], config=config)
        admin = self.broker.admin()
        try:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
        finally:
            admin.close()

    def _remade_topics(self):
        self.delete_topics(PARTITIONS)
        for topic in PARTITIONS:
            self.make_topic(topic)

    def _logs(self, *, threads=False):
        if threads:
            for consumer in self.consumers:
                if consumer.running:
                    consumer.signal(signal.SIGUSR1)
            time.sleep(1)
        return "\n".join(f"== {c.name} ({c.process.poll()}) {c.log_path}\n{_tail(c.log)}" for c in self.consumers[-2:])


def _tail(log):
    """The end of a log without what the Kafka client says of itself."""
    return "\n".join([line for line in log.splitlines() if '"logger": "kafka' not in line or "error" in line][-120:])[-9_000:]
