"""What a run left behind, gathered for the checks: plain values, so that a test can corrupt any of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.faults.stream.ledger import Sent

#: Stands before the digest of a dead letter's value where only that was kept.
CLAIM = "claim:"


class Line(NamedTuple):
    """One line of the audit file."""

    topic: str
    partition: int
    offset: int
    event_id: str | None
    verdict: str
    reason: str
    pid: int
    ts_us: int

    @property
    def place(self):
        return (self.topic, self.partition, self.offset)


class Row(NamedTuple):
    """An item's record as one view shows it; `codes` are the vector's bytes, `token` its 40-byte order key."""

    version: int
    event_us: int
    content_hash: str
    deleted: bool
    codes: bytes
    space: str
    token: bytes


class History(NamedTuple):
    """One row of an offline table, whatever became of it."""

    item: str
    version: int
    content_hash: str
    deleted: bool


class Dead(NamedTuple):
    """One record of the dead-letter topic: where the original lay, and the digest of its key and value."""

    topic: str
    partition: int
    offset: int
    payload_sha: str
    reason: str

    @property
    def place(self):
        return (self.topic, self.partition, self.offset)


@dataclass
class Views:
    """The four views of one space, by item id; an item that a view does not show is missing.

    Attributes:
        online, offline: records, tombstones included.
        tokens: order keys of index rows.
        found: items whose own vector (of the online record, or of the last content of a deleted item) finds them by search.
        history: every distinct offline row.
        offline_rows: offline rows as stored, repeats included.
        changes: last value of each key of the change stream.
        dirty: items marked dirty still.
    """

    space: str
    online: dict[str, Row] = field(default_factory=dict)
    offline: dict[str, Row] = field(default_factory=dict)
    tokens: dict[str, bytes] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    history: list[History] = field(default_factory=list)
    offline_rows: int = 0
    changes: dict[str, Row] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)


class Sample(NamedTuple):
    """One look at the committed offset of a partition, and at what the audit file proved durable after it."""

    at: float
    topic: str
    partition: int
    committed: int
    durable: int


class Behaviour(NamedTuple):
    """As `moontide.sequences.Behaviour`: (time in microseconds, item, action)."""

    time: int
    item_id: str
    action: str


@dataclass
class Evidence:
    """All of it.

    Attributes:
        sent: the ledger.
        lines: the audit file.
        torn: lines of the audit file that are no JSON (a write that was cut short).
        ends: next offset of each (topic, partition).
        starts: first offset that is still there, where not 0.
        committed: by (topic, partition).
        views: by space id.
        sequences: stored sequence per user.
        served: the same for items that were shown.
        tiers: (user, item) -> (sequence version of the stored row, computed_at).
        versions: version of each user's stored sequence.
        prices: stored price per item.
        dead: the dead-letter topic.
        samples: commit safety.
        counters: (pid, {(topic, verdict): count}) of consumers that could be asked at their end.
        length: behaviours kept per user.
    """

    sent: list[Sent]
    lines: list[Line] = field(default_factory=list)
    torn: int = 0
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    starts: dict[tuple[str, int], int] = field(default_factory=dict)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    views: dict[str, Views] = field(default_factory=dict)
    sequences: dict[str, tuple[Behaviour, ...]] = field(default_factory=dict)
    served: dict[str, tuple[Behaviour, ...]] = field(default_factory=dict)
    tiers: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    prices: dict[str, float | None] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    counters: list[tuple[int, dict[tuple[str, str], int]]] = field(default_factory=list)
    length: int = 1_000

    def by_place(self):
        return {s.place: s for s in self.sent if s.place is not None}


def read_audit(path):
    """(lines, torn lines) of an audit file."""
    return parse_audit(path.read_bytes()) if path.exists() else ([], 0)


def parse_audit(raw):
    """(lines, torn lines); what a killed writer left of a line is torn."""
    lines, torn = [], 0
    for one in raw.splitlines():
        if one.strip(b"\0 "):
            try:
                lines.append(Line(**json.loads(one)))
            except (ValueError, TypeError):
                torn += 1
    return lines, torn
