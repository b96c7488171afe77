"""The end of a run: what it left is gathered, and what was found is counted."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from moontide import names
from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from tests.faults.stream import checks, views
from tests.faults.stream.checks_stream import duplicates
from tests.faults.stream.evidence import Evidence, read_audit
from tests.faults.stream.figures import Broken
from tests.faults.stream.findings import explain, summary
from tests.faults.stream.ledger import VALID
from tests.faults.stream.workload import BEHAVIOURS, ITEMS


def gather(rig):
    """Let the living consumers clear their marks, ask for their counters, kill them, and read everything they left."""
    _await_marks(rig)
    counters = [(c.pid, c.counters()) for c in rig.consumers if c.running and not c.stopped]
    for consumer in rig.consumers:
        if consumer.running:
            consumer.kill()
    rig.sampler.stop()
    _note_landed(rig)
    lines, torn = read_audit(rig.audit)
    evidence = Evidence(rig.ledger.all(), lines, torn, rig.topics.ends(), dict(rig.starts), rig.committed())
    evidence.counters = [(pid, counted) for pid, counted in counters if counted is not None]
    evidence.samples = rig.samples + rig.sampler.samples
    live = load_spaces(rig.home / "spaces.toml")
    views.read_stores(evidence, Settings(**rig.base), live)
    records, _ = views.read_topic(rig.broker.bootstrap, names.TOPIC_DEAD_LETTERS)
    evidence.dead = [views.dead_of(record) for record in records]
    records, _ = views.read_topic(rig.broker.bootstrap, names.TOPIC_ITEM_EMBEDDINGS)
    for entry in live.spaces:
        evidence.views[entry.space.id].changes = views.change_rows(records, entry.space)
    return evidence


def conclude(rig, evidence, found):
    """Count, and explain the first findings."""
    f, tally = rig.figures, checks.tally(evidence)
    f.events = rig.sender.count
    kinds = Counter(finding.kind for finding in found)
    f.acked = sum(s.acked and s.topic in checks.LOGS and "@" not in s.send for s in evidence.sent)
    f.applied, f.stale, f.unchanged, f.dead = (tally[v] for v in checks.VERDICTS)
    f.lost = kinds["lost"] + kinds["missing"]
    f.duplicated = duplicates(evidence)
    f.stale_overwrites, f.zombies, f.mixed = kinds["stale_overwrite"], kinds["zombie"], kinds["mixed"]
    f.unsafe_commits, f.samples = kinds["unsafe_commit"], rig.looks + rig.sampler.looks
    f.findings = len(found)
    if found:
        # Who keeps only the end of a long message needs to know what was found, too.
        f.explained = f"{explain(evidence, found)}\n{rig.logs()}\n{summary(found)}"
    return f


def _await_marks(rig, timeout=20):
    """Until nothing is marked for the index, which is cleared behind the offsets; what stays marked becomes a finding."""
    living = [c for c in rig.consumers if c.running and not c.stopped]
    if not living:
        return
    online = online_store(Settings(**rig.base))
    try:
        spaces = [entry.space for entry in load_spaces(rig.home / "spaces.toml").spaces]
        ends = time.monotonic() + timeout
        while any(online.dirty(space, 1) for space in spaces) and any(c.running for c in living) and time.monotonic() < ends:
            time.sleep(0.1)
    finally:
        online.close()


def _note_landed(rig):
    """Find in the log what was not acknowledged; a record that was and is not there is the broker's loss."""
    sent = {s.send: s for s in rig.ledger.all()}
    seen, landed, replayed = set(), [], []
    for topic in (ITEMS, BEHAVIOURS):
        records, ends = views.read_topic(rig.broker.bootstrap, topic)
        for partition, (start, _) in ends.items():
            if start:
                rig.starts[topic, partition] = start
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
    rig.ledger.landed(landed)
    rig.ledger.intend(replayed)
    logged = [s for s in sent.values() if s.acked and s.topic in (ITEMS, BEHAVIOURS)]
    gone = [s for s in logged if s.send not in seen and s.off >= rig.starts.get((s.topic, s.part), 0)]
    if gone:
        raise Broken(f"the broker lost {len(gone)} acknowledged records, first {gone[0]}")
    if landed:
        rig.figures.notes.append(f"{len(landed)} records landed without an acknowledgement")
