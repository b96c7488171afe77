"""What must hold of the stream itself: commits, dead letters, repeats, counters, sequences and tiers."""

from __future__ import annotations

from collections import Counter, defaultdict

from moontide import names
from moontide.sequences import BehaviourSequence
from tests.faults.stream.evidence import CLAIM, Behaviour
from tests.faults.stream.findings import Finding
from tests.faults.stream.ledger import POISON, VALID
from tests.faults.stream.workload import SERVED


def commit_safety(e):
    """No committed offset was ever ahead of what the audit file proves durable."""
    for sample in e.samples:
        if sample.committed > sample.durable:
            detail = f"{sample.at:.1f} s: committed {sample.committed}, durable up to {sample.durable}"
            yield Finding("unsafe_commit", detail, place=(sample.topic, sample.partition, sample.durable))


def dead_letters(e):
    """The dead-letter topic holds the poison, all of it, nothing else, byte for byte."""
    places, got = e.by_place(), {}
    for dead in e.dead:
        got[dead.place] = dead
        s = places.get(dead.place)
        if s is None or s.kind != POISON:
            yield Finding(
                "misjudged", f"a dead letter of {'a good record' if s else 'no record'}: {dead.reason}", place=dead.place
            )
        elif not _same_bytes(s, dead):
            yield Finding("changed", "the dead letter has other bytes than its original", s.entity, dead.place)
    for s in e.sent:
        if s.kind == POISON and s.place is not None and s.place not in got and s.off >= e.starts.get((s.topic, s.part), 0):
            yield Finding("lost", f"poison {s.send} has no dead letter", s.entity, s.place)


def _same_bytes(s, dead):
    """A value that was too large for the topic is named by its digest."""
    if dead.payload_sha.startswith(CLAIM):
        return s.payload_sha.endswith(dead.payload_sha.removeprefix(CLAIM))
    return s.payload_sha == dead.payload_sha


def duplicates(e):
    """Verdicts beyond the first of each record."""
    return len(e.lines) - len({line.place for line in e.lines})


def bounded_duplicates(e, most):
    """No more work was repeated than the interruptions explain."""
    if (got := duplicates(e)) > most:
        yield Finding("duplicates", f"expected at most {most} verdicts beyond the first, got {got}")


def counters(e):
    """What /metrics says is what the audit file of the same process says."""
    for pid, counted in e.counters:
        want = Counter((line.topic, line.verdict) for line in e.lines if line.pid == pid)
        for key in want.keys() | counted.keys():
            if want[key] != counted.get(key, 0):
                yield Finding("miscounted", f"process {pid}: {key}: audit says {want[key]}, /metrics {counted.get(key, 0)}")


def sequences(e):
    """Each user's sequence is the merge of all behaviours in the log, cut to its length."""
    merged, served = defaultdict(set), defaultdict(set)
    for s in e.sent:
        if s.op == "behaviour" and s.kind == VALID and s.place is not None:
            (served if s.action == SERVED else merged)[s.entity].add(Behaviour(s.event_us, s.item_id, s.action))
    for name, want, got in ((names.USER_SEQUENCE, merged, e.sequences), (names.USER_SERVED, served, e.served)):
        for user in sorted({*want, *got}):
            whole = tuple(sorted(want[user])[-e.length :])
            if got.get(user, ()) != whole:
                detail = f"{name}: expected {len(whole)} behaviours, got {len(got.get(user, ()))} ({_difference(whole, got.get(user, ()))})"
                yield Finding("mismatch", detail, user)


def _difference(want, got):
    return f"{len(set(want) - set(got))} missing, {len(set(got) - set(want))} too many"


def tiers(e):
    """The newest tier rows of users were computed from their sequences as they are.

    A user whose candidates are all gone by then keeps rows of before, so some may be behind: up to a quarter.
    """
    behind, nothing = [], BehaviourSequence().version
    for user in sorted({user for user, _ in e.tiers}):
        if e.versions.get(user, nothing) not in {version for (u, _), (version, _) in e.tiers.items() if u == user}:
            behind.append(user)
    if len(behind) > len({user for user, _ in e.tiers}) / 4:
        for user in behind:
            yield Finding("stale_tiers", f"no tiers of sequence {e.versions.get(user)}, as it is now", user)
