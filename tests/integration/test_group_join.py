"""A member of a group whose polls are shorter than a join still gets its partitions."""

import time

import pytest

from moontide.settings import Settings
from streaming import clients

pytestmark = pytest.mark.integration


def slow_sync(consumer, seconds):
    """Have the broker's answer to each SyncGroup take so long."""
    manager = consumer._coordinator._manager
    send = manager.send

    async def later(request, args, kwargs):
        await consumer._net.sleep(seconds)
        return await send(request, *args, **kwargs)

    def slow(request, *args, **kwargs):
        return later(request, args, kwargs) if type(request).__name__.startswith("SyncGroup") else send(request, *args, **kwargs)

    manager.send = slow


def poll_until(consumer, condition):
    deadline = time.monotonic() + 25
    while not condition() and time.monotonic() < deadline:
        consumer.poll(timeout_ms=100)
    return condition()


def test_short_polls_do_not_lose_a_join_that_new_partitions_asked_for(kafka_broker):
    kafka_broker.create_topic("short-polls", partitions=3)
    settings = Settings(kafka_servers=kafka_broker.bootstrap, stream_group="short-polls", stream_session_ms=6_000)
    consumer = clients.consumer(settings, topics=())
    try:
        # As the loop does: a leader that does not know the topic assigns nothing.
        assert consumer.partitions_for_topic("short-polls") == {0, 1, 2}
        consumer.subscribe(["short-polls"])
        assert poll_until(consumer, lambda: len(consumer.assignment()) == 3)
        poll_until(consumer, lambda: not consumer._coordinator.rejoining)
        slow_sync(consumer, 0.5)
        admin = kafka_broker.admin()
        admin.create_partitions({"short-polls": 5})
        admin.close()
        assert poll_until(consumer, lambda: consumer._cluster.request_update() and len(consumer.assignment()) == 5)
    finally:
        consumer.close(autocommit=False)


def test_a_member_joins_once(kafka_broker):
    kafka_broker.create_topic("joins-once", partitions=3)
    for turn in range(5):
        settings = Settings(kafka_servers=kafka_broker.bootstrap, stream_group=f"joins-once-{turn}", stream_session_ms=6_000)
        consumer = clients.consumer(settings, topics=["joins-once"])
        try:
            assert poll_until(consumer, lambda c=consumer: len(c.assignment()) == 3)
            for _ in range(10):
                consumer.poll(timeout_ms=100)
            assert consumer._coordinator._generation.generation_id == 1
        finally:
            consumer.close(autocommit=False)
