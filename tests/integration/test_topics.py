"""The topics on a real broker: made once, compared afterwards, never changed."""

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from moontide import names
from moontide.errors import Misconfigured
from moontide.settings import load_settings
from streaming import clients
from streaming.topics import ensure_topics, main, topic_configs

pytestmark = pytest.mark.integration
EVERY = [names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS, names.TOPIC_ITEM_EMBEDDINGS, names.TOPIC_DEAD_LETTERS]


@pytest.fixture
def settings(own_kafka_broker):
    return load_settings(kafka_servers=own_kafka_broker.bootstrap)


@pytest.fixture
def admin(settings):
    made = clients.admin(settings)
    yield made
    made.close()


def config_of(admin, topic, key):
    return admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, [key])], config_filter="all")["topic"][topic][
        key
    ]["value"]


def test_topics_are_made_once_and_then_compared(settings, admin, own_kafka_broker, capsys):
    with pytest.raises(Misconfigured, match="InvalidReplicationFactor"):
        ensure_topics(admin, settings, replication=3)
    own_kafka_broker.create_topic(names.TOPIC_BEHAVIOUR_EVENTS, partitions=3)

    first = {state.name: state for state in ensure_topics(admin, settings, partitions=2)}
    assert list(first) == EVERY
    assert [state.name for state in first.values() if not state.created] == [names.TOPIC_BEHAVIOUR_EVENTS]
    partitions, size = first[names.TOPIC_BEHAVIOUR_EVENTS].differs
    assert "expected 2 partitions, got 3" in partitions
    assert "max.message.bytes" in size

    again = ensure_topics(admin, settings, partitions=2)
    assert not any(state.created for state in again)
    assert [state.differs for state in again if state.name != names.TOPIC_BEHAVIOUR_EVENTS] == [(), (), ()]
    assert len(own_kafka_broker.end_offsets(names.TOPIC_BEHAVIOUR_EVENTS)) == 3
    assert config_of(admin, names.TOPIC_ITEM_EMBEDDINGS, "cleanup.policy") == "compact"
    item_bytes = int(config_of(admin, names.TOPIC_ITEM_EVENTS, "max.message.bytes"))
    assert settings.stream_event_bytes < item_bytes < int(config_of(admin, names.TOPIC_DEAD_LETTERS, "max.message.bytes"))

    assert main(["--servers", settings.kafka_servers, "--partitions", "2"]) == 1
    said = capsys.readouterr().out
    assert f"{names.TOPIC_ITEM_EVENTS}: exists\n" in said
    assert f"{names.TOPIC_BEHAVIOUR_EVENTS}: expected 2 partitions, got 3" in said


def test_the_largest_event_goes_in_and_comes_out(settings, admin):
    assert all(state.created for state in ensure_topics(admin, settings, partitions=1))
    sizes = {
        names.TOPIC_ITEM_EVENTS: settings.stream_event_bytes,
        names.TOPIC_DEAD_LETTERS: clients.event_bytes(settings),
    }
    producer = clients.producer(settings)
    for topic, size in sizes.items():
        producer.send(topic, b"x" * size, headers=[("h", b"y" * 4_096)]).get(20)
    producer.close()
    consumer = clients.consumer(settings, topics=list(sizes))
    got = {}
    for _ in range(100):
        for records in consumer.poll(timeout_ms=200).values():
            got |= {record.topic: len(record.value) for record in records}
        if len(got) == 2:
            break
    consumer.close()
    assert got == sizes


def test_without_a_broker_it_says_so_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("moontide.kafka.connection._BOOTSTRAP_MS", 300)
    assert main(["--servers", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "moontide: Kafka, connecting to 127.0.0.1:1: expected an answer, got KafkaTimeoutError; "
        "try again, and look at the brokers if it lasts"
    ]


def test_every_topic_has_a_configuration():
    assert list(topic_configs(load_settings())) == EVERY
