"""What was sent, in SQLite: written by the harness alone, before each send and at each acknowledgement.

The consumer under test never sees this file; its own account is the audit file, and the checks compare the two.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import astuple, dataclass, fields, replace

VALID = "valid"
POISON = "poison"
#: Header of every record: which send it is. The consumer under test knows nothing of it.
HEADER = "ledger-send"


@dataclass(frozen=True, slots=True)
class Sent:
    """One record that was handed to the producer.

    Attributes:
        send: identity of this record; an event sent twice is two sends.
        event_id: the producer's id inside the event; empty for a tombstone.
        topic: where it was sent.
        entity: item or user id; empty where the record names none that can be read.
        source_version: of an item event; None for behaviours and for a tombstone without one.
        event_us: microseconds UTC.
        op: ``update``, ``delete`` or ``behaviour``.
        content_hash: of an update, as the encoder would make it.
        price: of an update.
        item_id, action: of a behaviour.
        payload_sha: sha256 over key and value.
        kind: `VALID` or `POISON`.
        acked: the broker acknowledged it.
        part, off: where it lies in the log, from the acknowledgement or from reading the log; None: not in the log.
    """

    send: str
    event_id: str
    topic: str
    entity: str
    source_version: int | None
    event_us: int
    op: str
    content_hash: str
    price: float | None
    item_id: str
    action: str
    payload_sha: str
    kind: str
    intent_ts: float = 0.0
    acked: bool = False
    part: int | None = None
    off: int | None = None

    @property
    def place(self) -> tuple[str, int, int] | None:
        """(topic, partition, offset) of a record that is in the log."""
        return None if self.part is None or self.off is None else (self.topic, self.part, self.off)


_COLUMNS = [f.name for f in fields(Sent)]


class Ledger:
    """The ledger of one run of one scenario. Thread-safe."""

    def __init__(self, path):
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        kinds = {"send": "TEXT PRIMARY KEY", "intent_ts": "REAL NOT NULL", "acked": "INTEGER NOT NULL"}
        columns = ", ".join(f"{c} {kinds.get(c, '')}" for c in _COLUMNS)
        self._db.execute(f"CREATE TABLE events({columns})")
        self._db.commit()

    def intend(self, sent):
        """Note, durably, that these are about to be sent."""
        rows = [astuple(replace(s, intent_ts=time.time())) for s in sent]
        with self._lock, self._db:
            self._db.executemany(f"INSERT INTO events VALUES({', '.join('?' * len(_COLUMNS))})", rows)

    def acked(self, places):
        """Note acknowledgements: (send, partition, offset) each."""
        with self._lock, self._db:
            self._db.executemany(
                "UPDATE events SET acked = 1, part = ?, off = ? WHERE send = ?", [(p, o, s) for s, p, o in places]
            )

    def landed(self, places):
        """Note where records were found in the log although nobody acknowledged them."""
        with self._lock, self._db:
            self._db.executemany(
                "UPDATE events SET part = ?, off = ? WHERE send = ? AND acked = 0", [(p, o, s) for s, p, o in places]
            )

    def all(self):
        """Every send, in the order of intent."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM events ORDER BY rowid").fetchall()
        at = _COLUMNS.index("acked")
        return [Sent(*row[:at], bool(row[at]), *row[at + 1 :]) for row in rows]

    def close(self):
        self._db.close()
