"""Leaving is bounded in time, whatever does not answer."""

import pytest
from kafka.errors import KafkaTimeoutError

from moontide.settings import Settings
from streaming.app import _close_producer
from streaming.crew import Crew
from streaming.loop import Loop
from streaming.message import Message, no_trace
from streaming.metrics import Metrics
from streaming.positions import Positions
from streaming.progress import Partition, Progress
from streaming.settler import Barrier
from streaming.state import State
from streaming.worker import Batch

pytestmark = pytest.mark.unit
MINE = [Partition("item-events", 0)]


class Consumer:
    def __init__(self):
        self.commits = []

    def commit(self, offsets, timeout_ms):
        self.commits.append(timeout_ms)


class StuckSettler:
    """Makes nothing durable."""

    held_bytes = 0

    def __init__(self):
        self.asked = 0

    def checkpoint(self, offsets):
        self.asked += 1
        return Barrier(offsets)


class ReadySettler(StuckSettler):
    def checkpoint(self, offsets):
        barrier = super().checkpoint(offsets)
        barrier.done.set()
        return barrier


class StuckWorker:
    """Has a batch that never ends."""

    def __init__(self):
        self.batch = Batch([], {})

    def withdraw(self):
        return None

    def pending(self):
        return [self.batch]


class Time:
    """Goes on by a second with each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def leaving(settler):
    consumer, time, progress = Consumer(), Time(), Progress()
    crew = Crew(StuckWorker(), settler, progress, State(monotonic=time), Metrics())
    loop = Loop(consumer, [], crew, Settings(), (lambda: 0, no_trace))
    progress.assigned(MINE)
    return loop, crew, consumer, time


def test_giving_up_partitions_ends_in_time_and_abandons_what_is_not_done():
    loop, crew, consumer, time = leaving(StuckSettler())
    loop._give_up(MINE, 30)
    assert crew.worker.batch.abandoned.is_set() and time.now < 40 and not consumer.commits
    assert crew.state.stuck(10) == [], "waiting is no stall"


def test_what_was_given_up_at_the_end_is_not_waited_for_again_when_the_client_closes():
    loop, crew, _, time = leaving(StuckSettler())
    crew.state.giving_up.set()
    before = time.now
    loop._on_revoked(MINE)
    assert (crew.settler.asked, time.now) == (0, before)
    assert crew.progress.stamp([Message(*MINE[0], 6, None, None)]) == {}, "nothing of it is committed later"


def test_a_failed_thread_ends_the_wait():
    loop, crew, _, time = leaving(StuckSettler())
    crew.state.failed = RuntimeError()
    loop._give_up(MINE, 1_000)
    assert time.now < 20


def test_the_last_commit_has_no_more_time_than_is_left():
    loop, crew, consumer, time = leaving(ReadySettler())
    crew.progress.done(crew.progress.stamp([Message(*MINE[0], 6, None, None)]))
    loop._give_up(MINE, 6)
    assert consumer.commits and consumer.commits[0] <= 6_000


def test_a_producer_whose_broker_is_down_is_left_after_a_while():
    given = []

    class Producer:
        def close(self, timeout):
            given.append(timeout)
            raise KafkaTimeoutError

    _close_producer(Producer())
    assert given and given[0] <= 5


def test_much_poison_that_cannot_be_sent_is_a_reason_to_read_no_more_and_to_make_a_checkpoint():
    loop, crew, _, _ = leaving(StuckSettler())
    loop._checkpoint_if_due()
    assert not loop._full() and crew.settler.asked == 0
    crew.settler.held_bytes = 1 << 30
    for _ in range(10):
        loop._checkpoint_if_due()
    assert loop._full() and crew.settler.asked == 1


def test_partitions_that_are_being_given_up_have_no_longer_than_the_whole_once_told_to_stop():
    loop, crew, consumer, time = leaving(StuckSettler())
    consumer.assignment = set
    crew.state.stopping.set()
    loop._on_revoked(MINE)
    loop._finish()
    assert time.now < 30 and crew.settler.asked == 2


def test_a_thread_that_fails_while_leaving_is_not_passed_over():
    loop, crew, consumer, _ = leaving(StuckSettler())
    consumer.partitions_for_topic = consumer.subscribe = consumer.close = lambda *_, **__: set()
    consumer.assignment = set
    crew.state.stopping.set()
    crew.state.failed = RuntimeError("a thread")
    with pytest.raises(RuntimeError, match="a thread"):
        loop.run()


def test_topics_that_are_missing_are_named_until_they_are_there():
    loop, crew, consumer, _ = leaving(StuckSettler())
    loop._topics = ["a", "b", "c"]
    consumer.partitions_for_topic = lambda topic: {0} if topic == "b" else None
    loop._learn_topics()
    assert crew.state.unready()[0].startswith("topics: expected a, c to exist")
    consumer.partitions_for_topic = lambda topic: {0} if topic != "c" else None
    loop._learn_topics()
    assert crew.state.unready()[0].startswith("topics: expected c to exist")
    consumer.partitions_for_topic = lambda topic: {0}
    loop._learn_topics()
    assert not [problem for problem in crew.state.unready() if "topics" in problem]


def test_a_partition_that_begins_anew_is_committed_from_its_new_records_alone():
    _, crew, consumer, _ = leaving(StuckSettler())
    consumer.committed = lambda *_, **__: None
    positions = Positions(consumer, crew, lambda: 0)

    def read(offset):
        message = Message(*MINE[0], offset, None, None)
        positions.note(message)
        return crew.progress.stamp([message])

    crew.progress.done(read(1_000))
    before = positions.fresh(crew.progress.snapshot())
    assert positions.commit(before) and len(consumer.commits) == 1
    mine = read(0)
    assert positions.fresh(crew.progress.snapshot()) == {} and positions.commit(before) and len(consumer.commits) == 1
    assert positions.uncommitted() == 1
    crew.progress.done(mine)
    assert [at.offset for at in positions.fresh(crew.progress.snapshot()).values()] == [1]


def test_what_is_given_up_uncommitted_is_read_again_where_the_partition_stays():
    _, crew, consumer, _ = leaving(StuckSettler())
    consumer.committed = lambda *_, **__: 5
    sought = []

    def seek(partition, offset):
        if partition.partition == 1:
            raise ValueError("Unassigned partition")
        sought.append((partition.topic, partition.partition, offset))

    consumer.seek = seek
    positions = Positions(consumer, crew, lambda: 0)
    crew.progress.assigned([Partition("item-events", n) for n in range(3)])
    for partition, offset in ((0, 5), (0, 6), (1, 5)):
        positions.note(Message("item-events", partition, offset, None, None))
    positions.forget([Partition("item-events", n) for n in range(3)])
    assert sought == [("item-events", 0, 5)]
    assert positions.uncommitted() == 0


def test_an_error_while_partitions_are_given_up_ends_the_consumer_and_keeps_no_place():
    loop, crew, consumer, _ = leaving(StuckSettler())
    sought = []
    consumer.committed = lambda *_, **__: 5
    consumer.seek = lambda partition, offset: sought.append(offset)
    loop._positions.note(Message(*MINE[0], 5, None, None))

    def give_up(*_):
        raise RuntimeError("broken")

    loop._give_up = give_up
    loop._on_revoked(MINE)
    assert isinstance(crew.state.failed, RuntimeError) and sought == [5]
