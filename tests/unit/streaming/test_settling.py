"""A checkpoint is done only when everything before it is durable; verdicts are corrected by the store."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders import Item
from encoders.stub import StubEncoder
from moontide.errors import Transient
from moontide.records import embedding_rows
from moontide.spaces import EmbeddingSpace
from moontide.stores.index_memory import MemoryIndex
from moontide.stores.kv_memory import MemoryKeyValue
from moontide.stores.offline import OfflineTables
from moontide.stores.online import PackedOnlineStore
from moontide.views import embedding_view
from streaming import settler
from streaming.audit import Audit
from streaming.checkpoint import Checkpoint
from streaming.followers import Follower
from streaming.message import Effects, Message, Result, Verdict
from streaming.metrics import Metrics
from streaming.online_writes import REFUSED, write_online
from streaming.progress import Partition, Position, Progress
from streaming.settler import Settler, Settling
from streaming.state import State

pytestmark = pytest.mark.unit

SPACE = EmbeddingSpace(name="moon", version=1, dim=8, encoder_digest="sha256:" + "0" * 64)
VIEW = embedding_view(SPACE)
NOW = 1_700_000_000_000_000
P = Partition("item-events", 0)


class Topic:
    """Sends that arrive on `wait`, which fails `fails` times."""

    def __init__(self, points):
        self.points, self.fails, self.sent, self.arrived = points, 0, [], []

    def publish(self, space, rows):
        self.points.append("changes_sent")
        self.sent += rows["item_id"].to_pylist()

    def send(self, result):
        self.sent.append(result.event_id)

    def wait(self):
        if self.fails:
            self.fails -= 1
            self.sent = []
            raise Transient("topic: expected an ack, got none")
        self.arrived += self.sent
        self.sent = []


def rows(version, *ids, event=NOW):
    stub = StubEncoder(SPACE)
    prepared = stub.prepare([Item(i, title=f"{i} {version}") for i in ids])
    return embedding_rows(stub.run(prepared), source_version=version, event_timestamp=event, encoded_at=NOW, content_known_at=NOW,
                          content_hash=prepared.content_hashes)  # fmt: skip


def result(offset, item, verdict=Verdict.APPLIED):
    return Result(Message("item-events", 0, offset, None, b"{}", (), NOW // 1000), verdict, f"e{offset}", item)


@pytest.fixture
def online():
    return PackedOnlineStore(MemoryKeyValue(), project="t", clock=lambda: NOW, sequence_length=10)


def until(condition):
    ends = time.monotonic() + 20
    while not condition() and time.monotonic() < ends:
        time.sleep(0.005)
    return condition()


class Rig:
    def __init__(self, online, folder):
        self.points, self.online, self.audit = [], online, folder / "audit"
        self.changes, self.letters, self.state, self.metrics = Topic(self.points), Topic(self.points), State(), Metrics()
        self.offline = OfflineTables(folder / "offline")
        follower = Follower(online, MemoryIndex(), self.changes, SPACE, self.points.append)
        checkpoint = Checkpoint(online, self.offline, self.letters, Audit(self.audit, lambda: NOW), "stream-t")
        self.settler = Settler(
            Settling({SPACE.id: follower}, checkpoint, lambda: NOW, self.points.append), self.state, self.metrics
        )
        self.settler.start()

    def lines(self):
        return [json.loads(line) for line in self.audit.read_text().splitlines() if line]


@pytest.fixture
def rig(online, tmp_path):
    rig = Rig(online, tmp_path)
    yield rig
    rig.settler.close(5)
    assert rig.state.failed is None


def test_a_checkpoint_makes_durable_in_order(rig, online):
    effects = Effects(rows=[(VIEW, rows(1, "a"))], results=[result(0, "a"), result(1, None, Verdict.DEAD)])
    write_online(online, effects)
    rig.settler.add(effects)
    barrier = rig.settler.checkpoint({P: Position(2, 1)})
    assert barrier.done.wait(20)
    order = ["index_written", "changes_sent", "offline_written", "index_flushed", "sends_awaited", "audited"]
    assert [p for p in rig.points if p in order and rig.points.index(p) >= 0][:2] == order[:2]
    assert [rig.points.index(p) for p in order] == sorted(rig.points.index(p) for p in order)
    assert [t["item_id"].to_pylist() for t in rig.offline.latest(VIEW)] == [["a"]]
    assert rig.letters.arrived == ["e1"] and rig.changes.arrived == ["a"]
    assert [(line["offset"], line["verdict"]) for line in rig.lines()] == [(0, "applied"), (1, "dead")]
    assert rig.online.dirty(SPACE, 10) == []


@pytest.mark.parametrize("which", ["changes", "letters"])
def test_a_send_that_fails_holds_the_checkpoint_back_and_is_sent_again(rig, online, which):
    topic = getattr(rig, which)
    topic.fails = 1_000_000
    effects = Effects(rows=[(VIEW, rows(1, "a"))], results=[result(0, "a"), result(1, None, Verdict.DEAD)])
    write_online(online, effects)
    rig.settler.add(effects)
    barrier = rig.settler.checkpoint({P: Position(2, 1)})
    assert not barrier.done.wait(0.5)
    assert rig.state.unready()
    assert not rig.audit.exists() or rig.audit.read_text() == ""
    topic.fails = 0
    assert barrier.done.wait(20)
    assert topic.arrived


def test_touched_records_are_written_offline_as_they_stand(rig, online):
    write_online(online, Effects(rows=[(VIEW, rows(3, "a", "b"))]))
    rig.settler.add(Effects(touched=[(VIEW, ["a", "b", "nobody"])], results=[result(0, "a", Verdict.UNCHANGED)]))
    assert rig.settler.checkpoint({P: Position(1, 1)}).done.wait(20)
    found = [row for t in rig.offline.latest(VIEW) for row in t.to_pylist()]
    assert sorted((row["item_id"], row["source_version"]) for row in found) == [("a", 3), ("b", 3)]
    assert sorted(rig.changes.arrived) == ["a", "b"]


def test_a_duplicate_of_what_is_durable_costs_no_second_row_and_a_changed_record_does(rig, online):
    for offset, version in enumerate((1, 1, 2)):
        if offset != 1:
            write_online(online, Effects(rows=[(VIEW, rows(version, "a"))]))
        rig.settler.add(Effects(touched=[(VIEW, ["a"])], results=[result(offset, "a", Verdict.UNCHANGED)]))
        assert rig.settler.checkpoint({P: Position(offset + 1, 1)}).done.wait(20)
    assert rig.changes.arrived == ["a", "a"]
    folder = rig.offline.tree.base
    assert len(list(Path(folder).rglob("part-stream-t*"))) == 2
    assert len(rig.lines()) == 3


def test_what_waits_for_a_checkpoint_keeps_the_payload_of_dead_letters_alone(rig):
    rig.letters.fails = 1_000_000
    image = b"i" * 1_000
    alive, dead = result(0, "a", Verdict.STALE), result(1, None, Verdict.DEAD)
    effects = Effects(results=[replace(r, message=r.message._replace(value=image)) for r in (alive, dead)])
    rig.settler.add(effects)
    barrier = rig.settler.checkpoint({P: Position(2, 1)})
    assert not barrier.done.wait(0.3)
    assert rig.settler.held_bytes == len(image)
    assert [r.message.value for r in effects.results] == [None, image]
    rig.letters.fails = 0
    assert barrier.done.wait(20)
    assert rig.settler.held_bytes == 0
    assert [line["offset"] for line in rig.lines()] == [0, 1]


def test_a_stale_event_sends_the_current_record_again(rig, online):
    """A consumer that died may have sent the older one last."""
    write_online(online, Effects(rows=[(VIEW, rows(2, "a"))]))
    rig.settler.add(Effects(rows=[(VIEW, rows(2, "a"))], results=[result(0, "a")]))
    assert rig.settler.checkpoint({P: Position(1, 1)}).done.wait(20)
    rig.settler.add(Effects(results=[result(1, "a", Verdict.STALE)]))
    assert rig.settler.checkpoint({P: Position(2, 1)}).done.wait(20)
    assert rig.changes.arrived == ["a", "a"]


def test_marks_are_cleared_in_a_quiet_stream_too(rig, online, monkeypatch):
    monkeypatch.setattr(settler, "_IDLE", 0.01)
    effects = Effects(rows=[(VIEW, rows(1, "a"))], results=[result(0, "a")])
    write_online(online, effects)
    rig.settler.add(effects)
    assert rig.settler.checkpoint({P: Position(1, 1)}).done.wait(20)
    online.write_rows(VIEW, rows(2, "a", "b"))
    assert until(lambda: not online.dirty(SPACE, 10))
    assert until(lambda: sorted(rig.changes.arrived) == ["a", "a", "b"])


def test_while_a_checkpoint_is_awaited_nothing_is_settled(rig, online, monkeypatch):
    monkeypatch.setattr(settler, "_IDLE", 0.01)
    rig.settler.add(Effects(results=[result(0, None, Verdict.DEAD)]))
    assert until(lambda: rig.letters.sent)
    online.write_rows(VIEW, rows(1, "a"))
    time.sleep(0.1)
    assert "index_flushed" not in rig.points
    assert rig.settler.checkpoint({P: Position(1, 1)}).done.wait(20)
    assert until(lambda: not online.dirty(SPACE, 10))


def test_several_versions_all_go_offline_and_the_last_online(rig, online):
    both = Effects(rows=[(VIEW, rows(1, "a")), (VIEW, rows(2, "a"))], results=[result(0, "a"), result(1, "a")])
    write_online(online, both)
    rig.settler.add(both)
    assert rig.settler.checkpoint({P: Position(2, 1)}).done.wait(20)
    assert sorted(v for t in rig.offline.scan(VIEW) for v in t["source_version"].to_pylist()) == [1, 2]
    assert online.heads(VIEW, ["a"]).source_version.tolist() == [2]
    assert [r.verdict for r in both.results] == [Verdict.APPLIED, Verdict.APPLIED]


def test_a_row_that_lost_against_a_faster_writer_is_stale(online):
    write_online(online, Effects(rows=[(VIEW, rows(5, "a"))]))
    late = Effects(rows=[(VIEW, rows(4, "a", "b"))], results=[result(0, "a"), result(1, "b")])
    write_online(online, late)
    assert [r.verdict for r in late.results] == [Verdict.STALE, Verdict.APPLIED]
    assert online.heads(VIEW, ["a", "b"]).source_version.tolist() == [5, 4]


def test_a_row_the_store_refuses_becomes_a_dead_letter_and_the_others_are_written(online):
    ahead = NOW + 3_600_000_000
    mixed = Effects(rows=[(VIEW, rows(1, "a", "b", event=np.array([ahead, NOW])))], results=[result(0, "a"), result(1, "b")])
    write_online(online, mixed)
    assert [(r.verdict, r.reason) for r in mixed.results] == [(Verdict.DEAD, REFUSED), (Verdict.APPLIED, "")]
    assert mixed.rows[0][1]["item_id"].to_pylist() == ["b"]
    assert online.heads(VIEW, ["a", "b"]).status.tolist() == [1, 0]


def test_positions_of_an_earlier_assignment_are_worth_nothing():
    progress = Progress()
    progress.assigned([P])
    old = progress.stamp([Message(*P, 7, None, None)])
    progress.done(old)
    assert progress.valid(progress.snapshot()) == {P: Position(8, 1)}
    progress.revoked([P])
    assert progress.snapshot() == {} and progress.valid(old) == {} and progress.stamp([Message(*P, 8, None, None)]) == {}
    progress.assigned([P])
    progress.done(old)
    assert progress.snapshot() == {}
