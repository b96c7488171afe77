"""Produce, dead letters, replay and the change stream over a real broker."""

import json
import time
import uuid

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition

from moontide import Embeddings, EmbeddingSpace
from moontide.__main__ import main
from moontide.changes import unpack_change
from moontide.records import embedding_rows
from moontide.settings import Settings
from streaming import clients
from streaming.changes import ChangeStream
from streaming.dead_letters import DeadLetters, split_headers
from streaming.message import Message, Result, Verdict
from streaming.topics import ensure_topics

pytestmark = pytest.mark.integration
ITEM = {
    "schema_version": 1,
    "event_id": "e-1",
    "op": "update",
    "item_id": "or:1",
    "source_version": 7,
    "event_timestamp": "2026-01-31T12:00:00Z",
    "content": {"title": "globe"},
}


@pytest.fixture
def settings(kafka_broker, monkeypatch):
    monkeypatch.setenv("MOONTIDE_KAFKA_SERVERS", kafka_broker.bootstrap)
    made = Settings(kafka_servers=kafka_broker.bootstrap)
    admin = clients.admin(made)
    ensure_topics(admin, made, partitions=2)
    admin.close()
    return made


@pytest.fixture
def producer(settings):
    made = clients.producer(settings)
    yield made
    made.close()


def everything(settings, topic):
    """All records of a topic, by partition and offset."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka_servers, group_id=None, enable_auto_commit=False)
    partitions = [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends, found, deadline = consumer.end_offsets(partitions), [], time.monotonic() + 20
    while any(consumer.position(p) < end for p, end in ends.items()) and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=200).values():
            found += [Message(r.topic, r.partition, r.offset, r.key, r.value, tuple(r.headers), r.timestamp) for r in records]
    consumer.close(autocommit=False)
    return found


def letters_of(producer, messages, reason):
    letters = DeadLetters(producer, clock=lambda: 1_000_000)
    for message in messages:
        letters.send(Result(message, Verdict.DEAD, None, None, reason, "value: expected JSON, got something else"))
    letters.wait()


def test_a_file_is_produced_with_its_keys_and_raw_records(settings, tmp_path, capsys):
    mark = uuid.uuid4().hex
    source = tmp_path / "events.jsonl"
    lines = [
        {**ITEM, "event_id": mark},
        {
            **{k: ITEM[k] for k in ("schema_version", "event_timestamp", "item_id")},
            "event_id": mark,
            "user_id": "u:1",
            "action": "buy",
        },
        {
            "topic": "item-events",
            "key": mark,
            "value": None,
            "headers": [["source_version", "9"]],
            "timestamp_ms": 1_700_000_000_000,
        },
        {"topic": "item-events", "value": "{broken " + mark},
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["produce", str(source)]) == 0
    assert capsys.readouterr().out == "behaviour-events: 1 records sent\nitem-events: 3 records sent\n"
    items = {(m.key, m.value): m for m in everything(settings, "item-events")}
    tombstone = items[mark.encode(), None]
    assert tombstone.headers == (("source_version", b"9"),) and tombstone.timestamp_ms == 1_700_000_000_000
    assert (None, b"{broken " + mark.encode()) in items
    assert (b"or:1", json.dumps(lines[0]).encode()) in items
    assert any(m.key == b"u:1" and mark.encode() in m.value for m in everything(settings, "behaviour-events"))


def test_dead_letters_go_back_once_each_and_by_reason(settings, producer, capsys):
    mark, group = uuid.uuid4().hex, uuid.uuid4().hex
    headers = (("h", b"1"), ("h", b"\xff"), ("h", b"1"))
    broken = [Message("item-events", 0, n, b"k%d" % n, f"{mark} {n}".encode(), headers, 1_700_000_000_000 + n) for n in range(5)]
    gone = Message("item-events", 1, 7, mark.encode(), None, (("source_version", b"x"),), 1_700_000_000_000)
    huge = Message("item-events", 1, 8, mark.encode(), b"x" * (clients.message_bytes(settings) + 1), (), 1_700_000_000_000)
    letters_of(producer, broken, "not_json")
    letters_of(producer, [gone, huge], "wrong_type")

    def back():
        found = [m for m in everything(settings, "item-events") if mark in str(m.value) or m.key == mark.encode()]
        return sorted(found, key=lambda m: (m.value is None, m.key))

    assert main(["replay-dlq", "--group", group, "--dry-run"]) == 1
    assert "not_json" in capsys.readouterr().out and back() == []
    assert main(["replay-dlq", "--group", group + "-w", "--reason", "wrong_type"]) == 1
    assert "only its digest" in capsys.readouterr().err
    assert [(m.key, m.value) for m in back()] == [(mark.encode(), None)]
    assert main(["replay-dlq", "--group", group, "--reason", "not_json", "--limit", "2"]) == 0
    assert len(back()) == 3
    assert main(["replay-dlq", "--group", group, "--reason", "not_json"]) == 0
    assert main(["replay-dlq", "--group", group, "--reason", "not_json"]) == 0
    assert "nothing to send" in capsys.readouterr().out
    found = back()
    assert [(m.key, m.value, m.timestamp_ms) for m in found[:5]] == [(m.key, m.value, m.timestamp_ms) for m in broken]
    for message in found:
        carried = dict(message.headers)
        assert carried["__moontide.errors.attempts"] == b"1" and carried["__moontide.errors.first_seen_ms"] == b"1000"
    assert found[0].headers[:3] == headers
    assert split_headers(found[0].headers)[1] == ()


@pytest.mark.parametrize("dies", ["before the acknowledgements", "before the commit"])
def test_a_replay_that_dies_half_way_loses_nothing(settings, producer, capsys, monkeypatch, dies):
    mark, group, reason = uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex
    letters_of(producer, [Message("item-events", 0, n, b"k%d" % n, f"{mark} {n}".encode(), (), 1) for n in range(40)], reason)

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        if dies == "before the commit":
            patched.setattr("kafka.KafkaConsumer.commit", die)
        else:
            patched.setattr("streaming.outbox.Outbox.wait", die)
            patched.setattr("kafka.KafkaProducer.send", lambda *_, **__: None)
            patched.setattr("kafka.KafkaProducer.close", lambda *_, **__: None)
        with pytest.raises(Killed):
            main(["replay-dlq", "--group", group, "--reason", reason])
    assert main(["replay-dlq", "--group", group, "--reason", reason]) == 0
    found = [m.value for m in everything(settings, "item-events") if mark.encode() in (m.value or b"")]
    assert {f"{mark} {n}".encode() for n in range(40)} == set(found)
    assert len(found) == (80 if dies == "before the commit" else 40)


def test_current_records_reach_the_compacted_topic(settings, producer):
    space = EmbeddingSpace("moon", 1, 3)
    ids = [uuid.uuid4().hex, uuid.uuid4().hex]
    made = Embeddings.from_float(space, np.array([[1, 2, 3], [0, 0, 0]], np.float32), ids=ids)
    gone = np.array([False, True])
    stream = ChangeStream(producer)
    stream.publish(
        space, embedding_rows(made, source_version=4, event_timestamp=5, encoded_at=6, content_known_at=7, deleted=gone)
    )
    stream.wait()
    found = {m.key: m.value for m in everything(settings, "item-embeddings")}
    got = [unpack_change(space, f"moon_v1/{item}".encode(), found[f"moon_v1/{item}".encode()]) for item in ids]
    assert [change.deleted[0] for change in got] == [False, True]
    assert got[0].embeddings.codes.tolist() == [made.codes[0].tolist()] and got[0].order(0).source_version == 4
