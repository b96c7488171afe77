"""A fetch that cannot be decoded stops its partition and no other."""

from types import SimpleNamespace

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaTimeoutError

from streaming.client_join import JoiningConsumer

pytestmark = pytest.mark.unit


def failing(monkeypatch, error, part):
    def poll(self, **_):
        raise error

    monkeypatch.setattr(KafkaConsumer, "poll", poll)
    consumer = JoiningConsumer.__new__(JoiningConsumer)
    consumer._closed = True
    consumer._coordinator = SimpleNamespace(rejoining=False)
    consumer._fetcher = SimpleNamespace(_next_partition_records=part)
    return consumer


def test_a_fetch_that_cannot_be_decoded_is_forgotten_and_named(monkeypatch, caplog):
    drained = []
    part = SimpleNamespace(topic_partition=TopicPartition("item-events", 3), next_fetch_offset=7, drain=lambda: drained.append(1))
    consumer = failing(monkeypatch, CorruptRecordError(), part)
    with pytest.raises(CorruptRecordError):
        consumer.poll(timeout_ms=0)
    assert drained and consumer._fetcher._next_partition_records is None and "item-events[3]@7" in caplog.text


def test_another_failure_passes(monkeypatch, caplog):
    consumer = failing(monkeypatch, KafkaTimeoutError(), None)
    with pytest.raises(KafkaTimeoutError):
        consumer.poll(timeout_ms=0)
    assert not caplog.text
