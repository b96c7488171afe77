"""The broker the tests run on: it keeps what it acknowledged, and does what a test asks of it."""

import subprocess
import time

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from tests.kafka_broker import ROOT, KafkaBroker

pytestmark = pytest.mark.integration


def send(broker, topic, count):
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    for future in [producer.send(topic, value=str(n).encode(), partition=n % 2) for n in range(count)]:
        future.get(20)
    producer.close()


def read(broker, topic, count):
    consumer = KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", group_id=None, consumer_timeout_ms=20_000
    )
    values = []
    for record in consumer:
        values.append(record.value)
        if len(values) == count:
            break
    consumer.close(autocommit=False)
    return values


def test_what_it_acknowledged_survives_a_kill_and_a_stop(own_kafka_broker):
    broker = own_kafka_broker
    broker.create_topic("kept", partitions=2)
    send(broker, "kept", 11)
    broker.kill()
    assert not broker.running
    broker.start()
    assert broker.end_offsets("kept") == {0: 6, 1: 5}
    broker.stop()
    broker.start()
    assert sorted(int(value) for value in read(broker, "kept", 11)) == list(range(11))


def test_a_paused_broker_keeps_connections_and_answers_after_it_is_resumed(own_kafka_broker):
    broker = own_kafka_broker
    broker.create_topic("paused")
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send("paused", b"first").get(10)
    broker.pause()
    late = producer.send("paused", b"second")
    with pytest.raises(KafkaError):
        late.get(1)
    broker.resume()
    assert late.get(20).offset == 1
    producer.close()


def test_deleted_records_move_the_start_of_the_partition(kafka_broker):
    kafka_broker.create_topic("broker-deleted", partitions=2)
    send(kafka_broker, "broker-deleted", 10)
    kafka_broker.delete_records("broker-deleted", {0: 3})
    assert kafka_broker.start_offsets("broker-deleted") == {0: 3, 1: 0}
    assert kafka_broker.end_offsets("broker-deleted") == {0: 5, 1: 5}


def test_an_unknown_topic_is_not_made_by_asking_for_it(kafka_broker):
    assert kafka_broker.end_offsets("broker-nobody-made-this") == {}
    assert kafka_broker.end_offsets("broker-nobody-made-this") == {}


def test_a_broker_that_ends_at_once_says_why(tmp_path):
    broker = KafkaBroker(tmp_path, properties={"log.retention.ms": "a while"})
    with pytest.raises(RuntimeError, match="a while"):
        broker.start()


def test_the_script_starts_and_stops_a_broker(tmp_path):
    from tests.kafka_broker import free_port

    def script(*words):
        command = ["scripts/kafka.sh", *words, "--data", str(tmp_path / "data"), "--port", str(port)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)

    port = next(found for found in iter(free_port, None) if found < 64_000)
    assert script("status").stdout == "stopped\n"
    try:
        started = time.monotonic()
        assert script("start").returncode == 0
        assert time.monotonic() - started < 60
        assert script("status").stdout.startswith(f"running on 127.0.0.1:{port}, process ")
        assert "already running" in script("start").stderr
    finally:
        stopped = script("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert script("status").returncode == 1
