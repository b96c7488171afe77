"""The harness' own checks: each is fed a state that is right, and then the same state with one thing wrong."""

import copy
from collections import Counter
from dataclasses import replace

import pytest

from moontide.order import WriteOrder
from moontide.sequences import BehaviourSequence
from moontide.spaces import EmbeddingSpace
from tests.faults.stream import checks
from tests.faults.stream.checks_stream import bounded_duplicates, duplicates
from tests.faults.stream.evidence import Behaviour, Dead, Evidence, History, Line, Row, Sample, Views, parse_audit
from tests.faults.stream.findings import explain
from tests.faults.stream.ledger import POISON, VALID, Ledger, Sent
from tests.faults.stream.poison import fuzz
from tests.faults.stream.processes import Durable
from tests.faults.stream.workload import BEHAVIOURS, ITEMS, Maker

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("fault", 1, 8)


def row(version, digest, *, deleted=False, at=1):
    codes = bytes(8) if deleted else checks.stub_codes(SPACE, [digest])[0]
    token = WriteOrder(version, at, 5, bytes.fromhex(digest)).pack()
    return Row(version, at, digest, deleted, codes, SPACE.id, token)


def sent(n, item, version, digest, *, op="update", kind=VALID, **more):
    made = Sent(f"s{n}", f"e{n}", ITEMS, item, version, version, op, digest, 1.0, "", "", f"sha{n}:v{n}", kind)
    return replace(made, acked=True, part=0, off=n, **more)


A, B, C, D = (f"{n:032x}" for n in (1, 2, 3, 4))


@pytest.fixture
def good():
    """Two live items, one deleted, one poison, one behaviour; every view agrees."""
    behaviour = replace(
        sent(0, "user", None, "", op="behaviour"), topic=BEHAVIOURS, event_us=9, item_id="x", action="click", event_id="b"
    )
    e = Evidence(
        [
            sent(0, "x", 1, A),
            sent(1, "x", 3, B),
            sent(2, "y", 2, C),
            sent(3, "z", 1, D),
            sent(4, "z", 2, "", op="delete"),
            sent(5, "", None, "", kind=POISON),
            sent(6, "x", 2, A),
            behaviour,
        ]
    )
    verdicts = {0: "applied", 1: "applied", 2: "applied", 3: "applied", 4: "applied", 5: "dead", 6: "stale"}
    e.lines = [Line(ITEMS, 0, n, f"e{n}", verdict, "", 7, 0) for n, verdict in verdicts.items()]
    e.lines.append(Line(BEHAVIOURS, 0, 0, "b", "applied", "", 7, 0))
    e.ends = e.committed = {(ITEMS, 0): 7, (BEHAVIOURS, 0): 1}
    records = {"x": row(3, B, at=3), "y": row(2, C, at=2), "z": row(2, "0" * 32, deleted=True, at=2)}
    v = Views(SPACE.id, dict(records), dict(records), {i: records[i].token for i in "xy"}, {"x", "y"})
    v.history = [History("x", 1, A, False), History("x", 3, B, False), History("y", 2, C, False)]
    v.history += [History("z", 1, D, False), History("z", 2, "0" * 32, True)]
    v.changes = dict(records)
    e.views = {SPACE.id: v}
    e.prices = {"x": 1.0, "y": 1.0, "z": None}
    e.dead = [Dead(ITEMS, 0, 5, "sha5:v5", "not_json")]
    e.sequences, e.versions = {"user": (Behaviour(9, "x", "click"),)}, {"user": 11}
    e.tiers = {("user", "y"): (11, 20), ("user", "x"): (10, 15)}
    e.samples = [Sample(0.0, ITEMS, 0, 3, 3), Sample(0.2, ITEMS, 0, 7, 7)]
    e.counters = [(7, Counter((line.topic, line.verdict) for line in e.lines))]
    return e


def kinds(e):
    return {finding.kind for finding in checks.all_findings(e, [SPACE])}


def test_a_right_state_has_no_findings(good):
    assert checks.all_findings(good, [SPACE]) == []
    assert checks.tally(good) == {"applied": 6, "stale": 1, "dead": 1}
    assert duplicates(good) == 0 and list(bounded_duplicates(good, 0)) == []


def view(change):
    return lambda e: change(e.views[SPACE.id])


def set_in(name, item, value):
    return view(lambda v: getattr(v, name).__setitem__(item, value))


def drop(name, item):
    return view(lambda v: getattr(v, name).pop(item))


OLD = row(1, A, at=1)
CORRUPTIONS = {
    "no verdict": (lambda e: e.lines.pop(2), "lost"),
    "no verdict on a behaviour": (lambda e: e.lines.pop(), "lost"),
    "verdict on what nobody sent": (lambda e: e.lines.append(Line(ITEMS, 0, 99, "e", "applied", "", 7, 0)), "phantom"),
    "verdict of another event": (lambda e: e.lines.__setitem__(0, e.lines[0]._replace(event_id="e1")), "misread"),
    "unknown verdict": (lambda e: e.lines.__setitem__(0, e.lines[0]._replace(verdict="filtered")), "misjudged"),
    "a good event is dead": (lambda e: e.lines.__setitem__(0, e.lines[0]._replace(verdict="dead")), "misjudged"),
    "poison is applied": (lambda e: e.lines.__setitem__(5, e.lines[5]._replace(verdict="applied")), "misjudged"),
    "acknowledged without a place": (lambda e: e.sent.__setitem__(2, replace(e.sent[2], part=None, off=None)), "lost"),
    "not committed": (lambda e: setattr(e, "committed", {**e.committed, (ITEMS, 0): 6}), "uncommitted"),
    "missing online": (drop("online", "x"), "missing"),
    "missing offline": (drop("offline", "x"), "missing"),
    "missing in the index": (drop("tokens", "x"), "missing"),
    "not found by search": (view(lambda v: v.found.discard("x")), "missing"),
    "not in the change stream": (drop("changes", "y"), "missing"),
    "older online": (set_in("online", "x", OLD), "stale_overwrite"),
    "older offline": (set_in("offline", "x", OLD), "stale_overwrite"),
    "older in the index": (set_in("tokens", "x", OLD.token), "stale_overwrite"),
    "older in the change stream": (set_in("changes", "x", OLD), "stale_overwrite"),
    "another version in the index": (set_in("tokens", "x", row(9, A).token), "mismatch"),
    "deleted item online": (set_in("online", "z", row(1, D)), "zombie"),
    "deleted item offline": (set_in("offline", "z", row(1, D)), "zombie"),
    "deleted item in the index": (set_in("tokens", "z", OLD.token), "zombie"),
    "deleted item found": (view(lambda v: v.found.add("z")), "zombie"),
    "live item deleted": (set_in("online", "x", row(3, "0" * 32, deleted=True)), "mismatch"),
    "unknown item online": (set_in("online", "w", OLD), "phantom"),
    "unknown item in the index": (set_in("tokens", "w", OLD.token), "phantom"),
    "unknown item in the change stream": (set_in("changes", "w", OLD), "phantom"),
    "unknown history": (view(lambda v: v.history.append(History("x", 4, A, False))), "phantom"),
    "history lost": (view(lambda v: v.history.pop(0)), "missing"),
    "vector of another content": (set_in("online", "x", row(3, B, at=3)._replace(codes=OLD.codes)), "mixed"),
    "another space": (set_in("offline", "y", row(2, C, at=2)._replace(space="fault_v2")), "mixed"),
    "other codes in the change stream": (set_in("changes", "x", row(3, B, at=3)._replace(codes=OLD.codes)), "mismatch"),
    "price of another version": (lambda e: e.prices.update(x=2.0), "mismatch"),
    "price of a deleted item": (lambda e: e.prices.update(z=1.0), "mismatch"),
    "mark left": (view(lambda v: v.dirty.add("x")), "dirty"),
    "committed ahead": (lambda e: e.samples.append(Sample(0.1, ITEMS, 0, 5, 4)), "unsafe_commit"),
    "dead letter missing": (lambda e: e.dead.clear(), "lost"),
    "dead letter changed": (lambda e: e.dead.__setitem__(0, e.dead[0]._replace(payload_sha="other:v5")), "changed"),
    "dead letter claims other bytes": (lambda e: e.dead.__setitem__(0, e.dead[0]._replace(payload_sha="claim:v6")), "changed"),
    "dead letter of a good record": (lambda e: e.dead.append(Dead(ITEMS, 0, 1, "sha1:v1", "x")), "misjudged"),
    "behaviour lost": (lambda e: e.sequences.clear(), "mismatch"),
    "behaviour nobody sent": (lambda e: e.served.update(user=(Behaviour(1, "x", "impression"),)), "mismatch"),
    "tiers of an old sequence": (lambda e: e.tiers.pop(("user", "y")), "stale_tiers"),
    "a metric that lies": (lambda e: e.counters[0][1].update({(ITEMS, "stale"): 1}), "miscounted"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_is_found(good, name):
    corrupt, kind = CORRUPTIONS[name]
    e = copy.deepcopy(good)
    corrupt(e)
    assert kind in kinds(e), checks.all_findings(e, [SPACE])


def test_repeated_verdicts_are_counted_and_bounded(good):
    good.lines += good.lines[:3]
    assert duplicates(good) == 3
    assert list(bounded_duplicates(good, 3)) == []
    assert [f.kind for f in bounded_duplicates(good, 2)] == ["duplicates"]


def test_a_dead_letter_that_kept_only_the_digest_is_compared_by_it(good):
    good.dead[0] = good.dead[0]._replace(payload_sha="claim:v5")
    assert kinds(good) == set()


def test_a_user_who_was_only_shown_items_has_tiers_of_an_empty_sequence(good):
    good.tiers["shown", "x"] = (BehaviourSequence().version, 5)
    good.tiers |= {("user", "y"): (11, 20)}
    assert kinds(good) == set()
    good.tiers["shown", "x"] = (4, 5)
    assert kinds(good) == {"stale_tiers"}


def test_a_finding_is_explained_with_its_history(good):
    good.views[SPACE.id].online["x"] = OLD
    text = explain(good, checks.all_findings(good, [SPACE]))
    assert "stale_overwrite x" in text and "ledger" in text and "verdict" in text and "offline" in text


def test_what_never_reached_the_log_must_not_be_seen(good):
    never = replace(sent(9, "x", 9, D), acked=False, part=None, off=None)
    good.sent.append(never)
    assert kinds(good) == set()
    good.views[SPACE.id].online["x"] = row(9, D, at=9)
    assert "mismatch" in kinds(good)


def test_a_tombstone_without_a_version_decides_by_its_time():
    lone = replace(sent(2, "x", None, "", op="delete"), event_us=50)
    assert checks.expected([sent(0, "x", 3, A), lone])["x"].op == "delete"
    assert checks.expected([replace(sent(0, "x", 60, A), event_us=60), lone])["x"].op == "update"


def test_durable_offsets_are_those_without_a_gap(tmp_path):
    path = tmp_path / "audit"
    durable = Durable(path)
    assert durable.read({}) == {}
    line = '{"topic":"t","partition":0,"offset":%d,"event_id":"e","verdict":"applied","reason":"","pid":1,"ts_us":1}\n'
    path.write_text("".join(line % n for n in (0, 1, 3)) + (line % 2)[:20])
    assert durable.read({}) == {("t", 0): 2}
    with path.open("a") as file:
        file.write((line % 2)[20:])
    assert durable.read({}) == {("t", 0): 4}
    assert parse_audit(path.read_bytes())[1] == 0
    assert parse_audit(b'{"torn\n\n\0\0\n')[1] == 1
    assert Durable(path).read({("t", 0): 3}) == {("t", 0): 4}


def test_the_ledger_keeps_intents_before_acknowledgements(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    rows = [replace(sent(n, "x", n, A), acked=False, part=None, off=None) for n in range(2)]
    ledger.intend(rows)
    ledger.acked([("s0", 2, 5)])
    ledger.landed([("s0", 9, 9), ("s1", 1, 7)])
    first, second = ledger.all()
    assert (first.acked, first.place) == (True, (ITEMS, 2, 5))
    assert (second.acked, second.place) == (False, (ITEMS, 1, 7))
    assert first.intent_ts > 0
    ledger.close()


def test_a_workload_is_decided_by_its_seed_and_says_what_it_means():
    made = [Maker(5).mixed(400) for _ in range(2)]
    assert [r.row.op for r in made[0]] == [r.row.op for r in made[1]]
    kinds = {r.row.kind for r in made[0]}
    assert kinds == {VALID, POISON}
    maker = Maker(1)
    item = maker.update("x")
    assert maker.again(item).value == item.value and maker.again(item).row.send != item.row.send
    assert maker.update("x", same=True).row.content_hash == item.row.content_hash
    assert maker.update("x").row.content_hash != item.row.content_hash
    orders = [
        (r.row.entity, r.row.source_version, r.row.event_us) for r in made[0] if r.row.op == "update" and r.row.kind == VALID
    ]
    contents = {}
    for record, order in zip([r for r in made[0] if r.row.op == "update" and r.row.kind == VALID], orders, strict=True):
        assert contents.setdefault(order, record.row.content_hash) == record.row.content_hash


def test_every_poison_is_poison():
    from moontide.events import BadEvent, parse_behaviour, parse_item

    maker = Maker(3)
    records = [maker.poison(topic) for topic in (ITEMS, BEHAVIOURS) for _ in range(200)]
    now = maker.base_us + 3_600_000_000
    for record in records:
        with pytest.raises(BadEvent):
            if record.row.topic == ITEMS:
                parse_item(record.key, record.value, (), 1, now_us=now)
            else:
                parse_behaviour(record.key, record.value, now_us=now)
    for key, value, headers in fuzz(maker.rng, "x"):
        with pytest.raises(BadEvent):
            parse_item(key, value, headers, 1, now_us=now)
