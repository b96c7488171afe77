"""A member of a group whose polls are shorter than a join still gets its partitions."""

import time

import pytest
from kafka import KafkaProducer

from moontide.settings import Settings
from streaming import clients

pytestmark = pytest.mark.integration


def slow_sync(consumer, seconds):
    """Have the broker's answer to each SyncGroup take so long."""
    manager = consumer._coordinator._manager
    send = manager.send

    async def later(request, kwargs):
        await consumer._net.sleep(seconds)
        return await send(request, **kwargs)

    def slow(request, **kwargs):
        return later(request, kwargs) if type(request).__name__.startswith("SyncGroup") else send(request, **kwargs)

    manager.send = slow


def test_short_polls_do_not_lose_a_join_that_new_metadata_asked_for(kafka_broker):
    kafka_broker.create_topic("short-polls", partitions=3)
    settings = Settings(kafka_servers=kafka_broker.bootstrap, stream_group="short-polls", stream_session_ms=6_000)
    consumer = clients.consumer(settings, topics=())
    try:
        slow_sync(consumer, 0.5)
        # As the loop does: a leader that does not know the topic assigns nothing.
        assert consumer.partitions_for_topic("short-polls") == {0, 1, 2}
        consumer.subscribe(["short-polls"])
        producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
        producer.send("short-polls", b"here").get(10)
        producer.close()
        found, deadline = [], time.monotonic() + 30
        while not found and time.monotonic() < deadline:
            found = [record.value for records in consumer.poll(timeout_ms=100).values() for record in records]
        assert found == [b"here"]
    finally:
        consumer.close(autocommit=False)
