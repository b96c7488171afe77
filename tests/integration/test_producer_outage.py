"""A producer whose records failed while the broker was down goes on when it is back."""

import time

import pytest
from kafka import KafkaConsumer, TopicPartition

from moontide.errors import Transient
from moontide.settings import Settings
from streaming import clients
from streaming.outbox import Outbox, Outgoing

pytestmark = pytest.mark.integration
KEYS = [str(n).encode() for n in range(20)]


def put(outbox, value):
    for key in KEYS:
        outbox.put(key, Outgoing("t", key, value))


def arrived(broker):
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    part = TopicPartition("t", 0)
    consumer.assign([part])
    end, found = consumer.end_offsets([part])[part], {}
    while consumer.position(part) < end:
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                found.setdefault(record.key, []).append(record.value)
    consumer.close()
    return found


def test_what_failed_while_the_broker_was_down_is_sent_again_and_the_newest_is_last(tmp_path, own_kafka_broker):
    broker = own_kafka_broker
    broker.create_topic("t", partitions=1)
    settings = Settings(home=tmp_path, kafka_servers=broker.bootstrap)
    limits = {"delivery_timeout_ms": 2_000, "request_timeout_ms": 1_000, "max_block_ms": 1_000}
    producer = clients.producer(settings, **limits)
    outbox = Outbox(producer, "t")
    put(outbox, b"1")
    outbox.wait(20)
    put(outbox, b"2")
    # Some of these are on their way, and fail for good after 2 s.
    broker.kill()
    put(outbox, b"3")
    with pytest.raises(Transient):
        outbox.wait(4)
    put(outbox, b"4")
    broker.start()
    end = time.monotonic() + 30
    while len(outbox):
        try:
            outbox.wait(3)
        except Transient:
            assert time.monotonic() < end, "it never sends again"
    producer.close(2)
    found = arrived(broker)
    assert sorted(found) == sorted(KEYS)
    assert all(values == sorted(values) and values[-1] == b"4" for values in found.values())
