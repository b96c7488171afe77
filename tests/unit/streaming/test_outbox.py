"""Records on their way: kept until acknowledged, sent again where they failed, never an old one after a newer one."""

from types import SimpleNamespace

import numpy as np
import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, NotLeaderForPartitionError, TopicAuthorizationFailedError

from moontide import Embeddings, EmbeddingSpace
from moontide.changes import unpack_change
from moontide.errors import Misconfigured, Transient
from moontide.records import embedding_rows
from streaming.changes import ChangeStream
from streaming.message import Point
from streaming.outbox import Outbox, Outgoing, close_producer, require_topic

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 3)


class Ack:
    """Acknowledged, or failed with `error`: before anyone asks, or (`later`) while somebody waits; or silent (`late`)."""

    def __init__(self, error=None, late=False, later=False):
        self.error, self.late, self.later = error, late, later

    def failed(self):
        return self.error is not None and not self.later

    def get(self, timeout=None):
        if self.late:
            raise KafkaTimeoutError("late")
        if self.error is not None:
            self.later = False
            raise self.error


class Producer:
    """Answers each send with the next of `answers`, an exception to raise or an `Ack`; then acknowledges."""

    def __init__(self, *answers):
        self.answers, self.sent, self.acks = list(answers), [], []

    def send(self, topic, value, key, headers, *, timestamp_ms):
        answer = self.answers.pop(0) if self.answers else Ack()
        if isinstance(answer, Exception):
            raise answer
        self.sent.append((topic, key, value, headers, timestamp_ms))
        self.acks.append(answer)
        return answer


def record(value, key=b"k"):
    return Outgoing("t", key, value)


def values(producer):
    return [value for _, _, value, _, _ in producer.sent]


def test_nothing_to_wait_for():
    Outbox(Producer(), "t").wait()


def test_acknowledged_is_forgotten():
    producer = Producer()
    box = Outbox(producer, "t")
    box.put(1, Outgoing("t", b"k", b"v", (("h", b"1"), ("h", b"2")), 7))
    assert len(box) == 1
    box.wait()
    box.wait()
    assert len(box) == 0 and producer.sent == [("t", b"k", b"v", [("h", b"1"), ("h", b"2")], 7)]


@pytest.mark.parametrize("when", ["at once", "before", "later"])
def test_what_failed_is_sent_again_and_only_that(when):
    lost = NotLeaderForPartitionError()
    producer = Producer(Ack(), lost if when == "at once" else Ack(lost, later=when == "later"))
    box = Outbox(producer, "t")
    box.put(1, record(b"fine"))
    box.put(2, record(b"fails"))
    if when == "later":
        with pytest.raises(Transient, match="1 records, got NotLeader"):
            box.wait()
    box.wait()
    assert values(producer).count(b"fine") == 1 and values(producer)[-1] == b"fails" and len(box) == 0


def test_what_is_late_is_not_sent_again():
    late = Ack(late=True)
    producer = Producer(late)
    box = Outbox(producer, "t")
    box.put(1, record(b"v"))
    with pytest.raises(Transient):
        box.wait(0.0)
    late.late = False
    box.wait()
    assert values(producer) == [b"v"]


def test_an_old_record_never_follows_a_newer_one():
    producer = Producer(Ack(NotLeaderForPartitionError()))
    box = Outbox(producer, "t")
    box.put("k", record(b"old"))
    box.put("k", record(b"new"))
    box.wait()
    assert values(producer) == [b"old", b"new"]


def test_a_stuck_producer_is_asked_once_until_the_next_wait():
    producer = Producer(KafkaTimeoutError())
    box = Outbox(producer, "t")
    for n in range(3):
        box.put(n, record(b"%d" % n))
    assert values(producer) == [] and len(box) == 3
    box.wait()
    assert values(producer) == [b"0", b"1", b"2"] and len(box) == 0
    box.put(3, record(b"3"))
    assert values(producer)[-1] == b"3"


def test_a_failure_of_the_retry_keeps_everything():
    producer = Producer(KafkaTimeoutError(), KafkaTimeoutError())
    box = Outbox(producer, "t")
    box.put(1, record(b"1"))
    box.put(2, record(b"2"))
    with pytest.raises(Transient, match="2 records, got KafkaTimeoutError"):
        box.wait()
    box.wait()
    assert values(producer) == [b"1", b"2"]


@pytest.mark.parametrize("answer", [TopicAuthorizationFailedError(), MessageSizeTooLargeError()])
@pytest.mark.parametrize("when", ["at once", "before", "later"])
def test_what_no_retry_can_mend_stops(answer, when):
    box = Outbox(Producer(answer if when == "at once" else Ack(answer, later=when == "later")), "t")
    with pytest.raises(Misconfigured):
        box.put(1, record(b"v"))
        box.wait()


@pytest.mark.parametrize(
    "answer", [MessageSizeTooLargeError(), Ack(MessageSizeTooLargeError()), Ack(MessageSizeTooLargeError(), later=True)]
)
def test_a_smaller_record_takes_the_place_of_one_too_large(answer):
    producer = Producer(answer)
    box = Outbox(producer, "t", smaller=lambda big: big._replace(value=b"small"))
    box.put(1, record(b"big"))
    box.wait()
    assert values(producer)[-1] == b"small" and len(box) == 0


def rows(*ids, version=1):
    made = Embeddings.from_float(SPACE, np.ones((len(ids), 3), np.float32), ids=ids)
    return embedding_rows(made, source_version=version, event_timestamp=1, encoded_at=2, content_known_at=3)


def test_the_change_stream_sends_current_records():
    producer, seen = Producer(), []
    stream = ChangeStream(producer, seen.append)
    stream.publish(SPACE, rows())
    stream.publish(SPACE, rows("a", "b"))
    stream.wait()
    assert [(topic, key) for topic, key, *_ in producer.sent] == [
        ("item-embeddings", b"moon_v1/a"),
        ("item-embeddings", b"moon_v1/b"),
    ]
    assert unpack_change(SPACE, b"moon_v1/a", values(producer)[0]).order(0).source_version == 1
    assert seen == [Point.CHANGES_SENT] * 2


def test_the_change_stream_sends_again_only_the_newest_of_an_item():
    producer = Producer(*(Ack(NotLeaderForPartitionError(), later=True) for _ in range(2)))
    stream = ChangeStream(producer)
    stream.publish(SPACE, rows("a", version=1))
    stream.publish(SPACE, rows("a", version=2))
    with pytest.raises(Transient, match="1 records"):
        stream.wait()
    stream.wait()
    versions = [unpack_change(SPACE, b"moon_v1/a", value).order(0).source_version for value in values(producer)]
    assert versions == [1, 2, 2]


def asked(error):
    def partitions_for(topic):
        raise error

    return SimpleNamespace(partitions_for=partitions_for)


def test_a_topic_that_is_not_there_is_named():
    with pytest.raises(Misconfigured, match=r"^topic moon: expected it to exist.*streaming\.topics"):
        require_topic(asked(KafkaTimeoutError()), "moon")
    with pytest.raises(Misconfigured, match="access rules"):
        require_topic(asked(TopicAuthorizationFailedError()), "moon")


def test_a_producer_that_does_not_get_rid_of_its_records_is_left():
    def close(seconds):
        raise KafkaTimeoutError

    close_producer(SimpleNamespace(close=close), 0.1)
