"""One run of one scenario: broker, topics, ledger, consumers, and at the end the evidence and the findings."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import time
from pathlib import Path

from moontide.live import load_spaces
from tests.faults.stream import checks
from tests.faults.stream.checks_stream import bounded_duplicates
from tests.faults.stream.figures import Broken, Figures
from tests.faults.stream.gathering import conclude, gather
from tests.faults.stream.ledger import Ledger
from tests.faults.stream.processes import Consumer, MilvusServer, Sampler
from tests.faults.stream.sending import Sender
from tests.faults.stream.topics import Topics
from tests.faults.stream.workload import Maker
from tests.kafka_broker import KafkaBroker, free_port

ROOT = Path(__file__).parents[3]
DIM = 64
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
        self.starts: dict = {}
        self.topics = Topics(broker)
        self.topics.remake()
        self.sender = Sender(broker.bootstrap, self.ledger)
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
        """Send records, as fast as it goes or at so many a second."""
        self.sender.produce(records, rate=rate)

    def producing(self, records, *, rate):
        """`produce` in a thread; join it."""
        return self.sender.producing(records, rate=rate)

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
                raise Broken(f"waited {timeout} s for {what}; {self.logs()}")
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
            raise Broken(f"{consumer.name} ended with {consumer.process.returncode}, expected {code}; {self.logs()}")
        self.figures.kills += code == -9

    def kill(self, consumer):
        """SIGKILL from outside."""
        consumer.kill()
        self.figures.kills += 1

    def lines(self):
        """How many verdicts there are so far."""
        return self.audit.read_bytes().count(b'"verdict"') if self.audit.exists() else 0

    def committed(self):
        """(topic, partition) -> committed offset."""
        return self.topics.committed(self.group)

    def lag(self):
        """Records that are not committed."""
        done = self.committed()
        return sum(end - done.get(place, self.starts.get(place, 0)) for place, end in self.topics.ends().items())

    def quiesce(self, timeout=90, *, recovery=False, restart=False):
        """Wait until all that is in the log is committed; the time counts as a recovery where it follows a fault.

        With `restart`, a consumer that ended by itself is started again, as a supervisor would.
        """
        since = time.monotonic()
        while left := self.lag():
            if time.monotonic() - since > timeout:
                raise Broken(f"{left:,} records are not committed after {timeout} s; {self.logs(threads=True)}")
            if restart and not any(c.running for c in self.consumers):
                self.figures.interruptions += 1
                self.start()
            if not any(c.running for c in self.consumers):
                raise Broken(f"no consumer runs and {left:,} records are not committed; {self.logs()}")
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
        evidence = gather(self)
        found = self.findings(evidence)
        if most_duplicates is None:
            held = self.base["stream_poll_records"] * 3 + self.base["stream_checkpoint_events"] * 2
            most_duplicates = (self.figures.kills + self.figures.interruptions) * held
        found += bounded_duplicates(evidence, most_duplicates)
        return conclude(self, evidence, found)

    def findings(self, evidence, *, vectors=None):
        """All checks; `vectors` stands in for the comparison with the stub's vectors."""
        live = load_spaces(self.home / "spaces.toml")
        return checks.all_findings(evidence, [entry.space for entry in live.spaces], vectors=vectors)

    def close(self):
        """Stop everything and remove the folder, but for a run that failed."""
        for consumer in self.consumers:
            if consumer.running:
                consumer.kill()
        if self.sampler.is_alive():
            self.sampler.stop()
        self.sender.close()
        for stop in self.stops:
            stop()
        for folder in self.unmounts:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        self.ledger.close()
        if not self.figures.findings and not self.figures.explained:
            shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self, *, threads=False):
        """The ends of the last two consumers' logs; with `threads`, of where their threads stand too."""
        if threads:
            for consumer in self.consumers:
                if consumer.running:
                    consumer.signal(signal.SIGUSR1)
            time.sleep(1)
        return "\n".join(f"== {c.name} ({c.process.poll()}) {c.log_path}\n{_tail(c.log)}" for c in self.consumers[-2:])


def _tail(log):
    """The end of a log without what the Kafka client says of itself."""
    return "\n".join([line for line in log.splitlines() if '"logger": "kafka' not in line or "error" in line][-120:])[-9_000:]
