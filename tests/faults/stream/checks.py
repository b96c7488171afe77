"""What must hold after a run: pure functions from evidence to findings. No finding, no fault."""

from __future__ import annotations

from collections import Counter, defaultdict

from encoders.stub import StubEncoder, StubPrepared
from moontide import names
from moontide.spaces import EmbeddingSpace
from tests.faults.stream.checks_stream import commit_safety, counters, dead_letters, sequences, tiers
from tests.faults.stream.findings import Finding
from tests.faults.stream.ledger import POISON, VALID

LOGS = (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS)
VERDICTS = ("applied", "stale", "unchanged", "dead")


def expected(sent):
    """Item -> the record of the log that decides its state: the highest (version, event time), and of equals the last."""
    highest = {}
    versions = defaultdict(int)
    for s in sent:
        if s.op != "behaviour" and s.source_version is not None:
            versions[s.entity] = max(versions[s.entity], s.source_version)
    for s in sent:
        if s.op == "behaviour" or s.kind != VALID or s.place is None:
            continue
        # A tombstone without a version deletes what is older than itself, whatever its version.
        version = versions[s.entity] if s.source_version is None else s.source_version
        order = (version, s.event_us, s.off)
        if s.entity not in highest or order > highest[s.entity][0]:
            highest[s.entity] = (order, s)
    return {item: s for item, (_, s) in highest.items()}


def conservation(e):
    """Every record of the log has a verdict, of the right kind; every verdict is of a record that was sent."""
    seen, first = e.by_place(), {}
    for line in e.lines:
        first.setdefault(line.place, line)
        s = seen.get(line.place)
        if s is None:
            yield Finding("phantom", f"verdict {line.verdict} on a record nobody sent", place=line.place)
        elif s.kind == VALID and line.event_id not in (s.event_id, None) and s.event_id:
            yield Finding("misread", f"verdict names event {line.event_id}, sent was {s.event_id}", s.entity, line.place)
    for s in e.sent:
        if s.acked and s.place is None:
            yield Finding("lost", f"{s.send} was acknowledged without a place", s.entity)
        if s.topic not in LOGS or s.place is None or s.off < e.starts.get((s.topic, s.part), 0):
            continue
        line = first.get(s.place)
        if line is None:
            yield Finding("lost", f"{s.send} has no verdict", s.entity, s.place)
        elif line.verdict not in VERDICTS:
            yield Finding("misjudged", f"{s.send} got an unknown verdict {line.verdict!r}", s.entity, s.place)
        elif (line.verdict == "dead") != (s.kind == POISON):
            yield Finding("misjudged", f"{s.send} is {s.kind}, its verdict {line.verdict} {line.reason}", s.entity, s.place)
    for place, end in e.ends.items():
        if e.committed.get(place, 0) != end:
            yield Finding("uncommitted", f"{place} ends at {end}, committed is {e.committed.get(place, 0)}")


def tally(e):
    """Verdicts over distinct records, by the first verdict of each."""
    first = {}
    for line in e.lines:
        first.setdefault(line.place, line.verdict)
    return Counter(first.values())


def state(e, views):
    """Each item is in all four views as its deciding event says, and nothing else is there."""
    want = expected(e.sent)
    yield from _records(views, want)
    for item in sorted({*want, *views.online, *views.offline, *views.tokens}):
        s, online = want.get(item), views.online.get(item)
        live = s is not None and s.op == "update"
        token = views.tokens.get(item)
        if not live and token is not None:
            yield Finding("zombie" if s else "phantom", f"{views.space}: the index shows it", item)
        elif live and token is None:
            yield Finding("missing", f"{views.space}: not in the index", item)
        elif live and online is not None and token != online.token:
            kind = "stale_overwrite" if token < online.token else "mismatch"
            yield Finding(kind, f"{views.space}: the index row was made from another version", item)
        if live != (item in views.found):
            kind = "zombie" if item in views.found else "missing"
            yield Finding(kind, f"{views.space}: search by its own vector {'finds' if kind == 'zombie' else 'misses'} it", item)
    for item in sorted(views.dirty):
        yield Finding("dirty", f"{views.space}: still marked dirty", item)


def _records(views, want):
    for name, rows in (("online", views.online), ("offline", views.offline)):
        for item, s in want.items():
            row = rows.get(item)
            where = f"{views.space} {name}"
            if s.op == "delete":
                if row is not None and not row.deleted:
                    yield Finding("zombie", f"{where}: shown although {s.send} deleted it", item)
            elif row is None:
                yield Finding("missing", f"{where}: expected {s.send} version {s.source_version}, got nothing", item)
            elif row.deleted or (row.version, row.content_hash) != (s.source_version, s.content_hash):
                low = (row.version, row.event_us) < (s.source_version, s.event_us)
                kind = "stale_overwrite" if low else "mismatch"
                got = "a tombstone" if row.deleted else f"version {row.version} content {row.content_hash}"
                yield Finding(kind, f"{where}: expected {s.send} version {s.source_version} {s.content_hash}, got {got}", item)
        for item in rows.keys() - want.keys():
            yield Finding("phantom", f"{views.space} {name}: nobody sent it", item)


def content(e, views, space: EmbeddingSpace, vectors=None):
    """Each vector is the one its content has in this space, and says so; offline history holds only what was sent.

    `vectors` compares live rows with the vectors of another encoder than the stub.
    """
    for name, rows in (("online", views.online), ("offline", views.offline)):
        live = {item: row for item, row in rows.items() if not row.deleted}
        for item, row in live.items():
            if row.space != space.id:
                yield Finding("mixed", f"{name}: expected space {space.id}, got {row.space}", item)
        yield from (vectors or (lambda rows: _unlike_stub(space, rows)))(live)
    known = {(s.entity, s.source_version, s.content_hash, s.op == "delete") for s in e.sent if s.kind == VALID}
    anonymous = {s.entity for s in e.sent if s.op == "delete" and s.source_version is None}
    for row in views.history:
        of = (row.item, row.version, "" if row.deleted else row.content_hash, row.deleted)
        if of not in known and not (row.deleted and row.item in anonymous):
            yield Finding("phantom", f"{views.space} offline history: version {row.version} was never sent", row.item)


def _unlike_stub(space, rows):
    for (item, row), codes in zip(rows.items(), stub_codes(space, [row.content_hash for row in rows.values()]), strict=True):
        if row.codes != codes:
            yield Finding("mixed", f"the vector is not the one of its content in {space.id}", item)


def history(e, views):
    """Each event that won is in the offline history."""
    stored = {(row.item, row.version) for row in views.history}
    places = e.by_place()
    for line in e.lines:
        s = places.get(line.place)
        if line.verdict == "applied" and s and s.op != "behaviour" and s.source_version is not None:
            if (s.entity, s.source_version) not in stored:
                yield Finding("missing", f"{views.space} offline history lacks {s.send}, which was applied", s.entity, s.place)


def prices(e):
    """The scalar features are those of the deciding event."""
    for item, s in expected(e.sent).items():
        got = e.prices.get(item)
        want = s.price if s.op == "update" else None
        if got != want:
            yield Finding("mismatch", f"item_features: expected price {want} of {s.send}, got {got}", item)


def changes(views):
    """The last value of each key of the change stream is the online record."""
    for item in sorted({*views.online, *views.changes}):
        online, last = views.online.get(item), views.changes.get(item)
        if last is None:
            yield Finding("missing", f"{views.space}: not in the change stream", item)
        elif online is None:
            yield Finding("phantom", f"{views.space}: only in the change stream", item)
        elif (last.token, last.deleted, last.codes) != (online.token, online.deleted, online.codes):
            kind = "stale_overwrite" if last.token < online.token else "mismatch"
            yield Finding(kind, f"{views.space}: the change stream's last value is another version", item)


def stub_codes(space, hashes):
    """Bytes of the stub's vector of each content hash."""
    prepared = StubPrepared(tuple(f"i{n}" for n in range(len(hashes))), tuple(hashes), ())
    return [row.tobytes() for row in StubEncoder(space).run(prepared).codes]


def all_findings(e, spaces, *, vectors=None):
    """Everything but the bounds that depend on the scenario."""
    found = [*conservation(e), *prices(e), *commit_safety(e), *dead_letters(e), *counters(e), *sequences(e), *tiers(e)]
    for space in spaces:
        views = e.views[space.id]
        found += [*state(e, views), *content(e, views, space, vectors), *history(e, views), *changes(views)]
    return found
