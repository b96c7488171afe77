"""The worker settles each message once, whatever fails, and says that a batch is done only when it is."""

import time

import pytest

from moontide import names
from moontide.errors import Transient
from moontide.stores.kv_memory import MemoryKeyValue
from moontide.stores.online import PackedOnlineStore
from streaming.message import Effects, Message, Result, Verdict, no_trace
from streaming.metrics import Metrics
from streaming.progress import Partition, Progress
from streaming.state import State
from streaming.worker import Batch, Handling, Worker

pytestmark = pytest.mark.unit

NOW = 1_700_000_000_000_000
ITEMS, USERS = names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS


def message(topic, offset):
    return Message(topic, 0, offset, None, b"{}", (), NOW // 1_000 - 50)


class Items:
    """One `Effects` per message; `fails` maps offsets to how often they fail first."""

    def __init__(self, log):
        self.log, self.fails = log, {}

    def handle(self, messages, *, trace):
        for m in messages:
            if self.fails.get(m.offset, 0):
                self.fails[m.offset] -= 1
                raise Transient("object store: expected an image, got a time-out")
            self.log.append(("item", m.offset))
            yield Effects(results=[Result(m, Verdict.APPLIED, "e", "i")])


class Behaviours:
    def __init__(self, log):
        self.log = log

    def handle(self, messages, *, trace):
        self.log.append(("behaviours", len(messages)))
        return Effects(results=[Result(m, Verdict.APPLIED, "e", f"u{m.offset}") for m in messages])


class Tiers:
    index_failures = neighbours_left_out = 0

    def __init__(self, log):
        self.log, self.fails = log, 0

    def recompute(self, users):
        if self.fails:
            self.fails -= 1
            raise Transient("store: expected an answer, got none")
        self.log.append(("tiers", len(users)))
        return Effects()


class Rig:
    def __init__(self):
        self.log, self.added = [], []
        self.items, self.behaviours, self.tiers = Items(self.log), Behaviours(self.log), Tiers(self.log)
        self.progress, self.state = Progress(), State()
        store = PackedOnlineStore(MemoryKeyValue(), project="t", clock=lambda: NOW, sequence_length=10)
        handling = Handling(store, self.items, self.behaviours, self.tiers, lambda: NOW, no_trace)
        self.worker = Worker(handling, self, self.progress, self.state, Metrics())
        self.progress.assigned([Partition(ITEMS, 0), Partition(USERS, 0)])
        self.worker.start()

    def add(self, effects):
        self.added += effects.results

    def submit(self, *messages):
        batch = Batch(list(messages), self.progress.stamp(messages))
        assert self.worker.has_room(5)
        self.worker.submit(batch)
        return batch

    def offsets(self):
        return {p.topic: at.offset for p, at in self.progress.snapshot().items()}


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.worker.close(5)
    assert rig.state.failed is None


def test_items_come_before_behaviours_and_tiers_after_them(rig):
    assert rig.submit(message(USERS, 0), message(ITEMS, 4), message(USERS, 1)).finished.wait(5)
    assert rig.log == [("item", 4), ("behaviours", 2), ("tiers", 2)]
    assert rig.offsets() == {ITEMS: 5, USERS: 2}


def test_a_failure_repeats_only_what_was_not_settled(rig):
    rig.items.fails = {2: 2}
    assert rig.submit(*(message(ITEMS, n) for n in range(4))).finished.wait(10)
    assert rig.log == [("item", n) for n in range(4)]
    assert [r.message.offset for r in rig.added] == [0, 1, 2, 3]
    assert rig.offsets() == {ITEMS: 4}
    assert rig.state.waiting == {}


def test_tiers_that_fail_are_computed_again_in_slices(rig):
    rig.tiers.fails = 1
    assert rig.submit(*(message(USERS, n) for n in range(120))).finished.wait(10)
    assert rig.log == [("behaviours", 120), ("tiers", 50), ("tiers", 50), ("tiers", 20)]
    assert rig.offsets() == {USERS: 120}


def test_an_abandoned_batch_moves_no_offset(rig):
    rig.items.fails = {1: 1_000_000}
    batch = rig.submit(message(ITEMS, 0), message(ITEMS, 1))
    while "handling" not in rig.state.waiting:
        time.sleep(0.01)
    assert rig.worker.pending() == [batch]
    batch.abandoned.set()
    assert batch.finished.wait(5)
    assert rig.offsets() == {}
    assert rig.submit(message(ITEMS, 0)).finished.wait(5), "the worker goes on with the next batch"
    assert rig.offsets() == {ITEMS: 1}


def test_a_batch_that_was_not_begun_is_taken_back(rig):
    rig.items.fails = {0: 1_000_000}
    first = rig.submit(message(ITEMS, 0))
    second = rig.submit(message(ITEMS, 1))
    assert not rig.worker.has_room()
    assert rig.worker.withdraw() is second and second.finished.is_set()
    assert rig.worker.withdraw() is None
    first.abandoned.set()
    assert first.finished.wait(5)
    assert rig.log == []


def test_an_empty_batch_is_done_at_once(rig):
    assert rig.submit().finished.wait(5)
    assert rig.log == [] and rig.offsets() == {}


def test_an_error_nobody_expected_ends_the_process_and_not_the_record(rig):
    def broken(messages, *, trace):
        raise ZeroDivisionError

    rig.items.handle = broken
    assert rig.submit(message(ITEMS, 0)).finished.wait(5)
    assert isinstance(rig.state.failed, ZeroDivisionError)
    assert rig.offsets() == {}
    rig.state.failed = None
