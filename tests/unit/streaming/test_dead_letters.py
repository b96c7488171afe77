"""Dead letters keep the record as it came, say why, and lead back to it."""

import hashlib

import pytest
from kafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError

from moontide.errors import Misconfigured, Poison
from streaming.dead_letters import DeadLetters, claim, dead_letter, original, reason_of, split_headers
from streaming.message import Message, Point, Result, Verdict

pytestmark = pytest.mark.unit
MESSAGE = Message("item-events", 3, 99, b"or:1", b'{"broken', (("h", b"1"), ("trace", b"\xff"), ("h", b"2")), 1_700)


class Ack:
    def __init__(self, error=None):
        self.error = error

    def failed(self):
        return self.error is not None

    def get(self, timeout=None):
        if self.error is not None:
            raise self.error


class Producer:
    def __init__(self, *answers, most=10_000):
        self.answers, self.most, self.sent = list(answers), most, []

    def send(self, topic, value, key, headers, *, timestamp_ms):
        # kafka-python's own rules.
        assert key is not None or value is not None
        assert all(type(name) is str and type(text) is bytes for name, text in headers)
        if len(value or b"") + sum(len(name) + len(text) for name, text in headers) > self.most:
            raise MessageSizeTooLargeError()
        self.sent.append(
            Message(topic, 0, len(self.sent), key, value, tuple(headers), timestamp_ms if timestamp_ms is not None else -1)
        )
        return self.answers.pop(0) if self.answers else Ack()


def result(message=MESSAGE, **more):
    given = {
        "event_id": "e-1",
        "entity_id": "or:1",
        "reason": "not_json",
        "detail": "value: expected JSON",
        "attempts": 2,
        **more,
    }
    return Result(message, Verdict.DEAD, **given)


def sent(*results, **more):
    producer = Producer(**more)
    letters = DeadLetters(producer, clock=lambda: 5_000_000)
    for one in results:
        letters.send(one)
    letters.wait()
    return producer.sent


def test_the_record_is_kept_and_explained():
    (letter,) = sent(result())
    assert (letter.topic, letter.key, letter.value, letter.timestamp_ms) == ("moontide-dead-letters", b"or:1", b'{"broken', 1_700)
    theirs, ours = split_headers(letter.headers)
    assert theirs == MESSAGE.headers
    assert {name: text.decode() for name, text in ours} == {
        "__connect.errors.topic": "item-events",
        "__connect.errors.partition": "3",
        "__connect.errors.offset": "99",
        "__connect.errors.connector.name": "moontide",
        "__connect.errors.task.id": "0",
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.class.name": "moontide.events",
        "__connect.errors.exception.class.name": "moontide.errors.Poison",
        "__connect.errors.exception.message": "value: expected JSON",
        "__connect.errors.exception.stacktrace": "",
        "__moontide.errors.reason": "not_json",
        "__moontide.errors.event_id": "e-1",
        "__moontide.errors.entity_id": "or:1",
        "__moontide.errors.attempts": "2",
        "__moontide.errors.first_seen_ms": "5000",
    }
    assert reason_of(letter) == "not_json"


@pytest.mark.parametrize("value", [None, b"", b"\x00\xff"])
@pytest.mark.parametrize("headers", [(), MESSAGE.headers, (("__connect.errors.topic", b"theirs"), ("x", b""))])
@pytest.mark.parametrize("timestamp_ms", [-1, 0, 9])
def test_replay_sends_what_came(value, headers, timestamp_ms):
    message = Message("item-events", 0, 1, b"k", value, headers, timestamp_ms)
    (letter,) = sent(result(message))
    back = original(letter)
    assert (back.topic, back.key, back.value) == ("item-events", b"k", value)
    assert back.timestamp_ms == (None if timestamp_ms == -1 else timestamp_ms)
    carried = (("__moontide.errors.attempts", b"2"), ("__moontide.errors.first_seen_ms", b"5000"))
    assert back.headers == (*headers, *carried)


def test_attempts_count_on_over_replays():
    letter = dead_letter(result(attempts=1), 5)
    for tries in (2, 3):
        back = original(Message("moontide-dead-letters", 0, 0, letter.key, letter.value, letter.headers, 1_700))
        letter = dead_letter(result(Message("item-events", 3, 200, back.key, back.value, back.headers, 1_700), attempts=1), 99)
        theirs, ours = split_headers(letter.headers)
        assert theirs == MESSAGE.headers
        assert dict(ours)["__moontide.errors.attempts"] == b"%d" % tries
        assert dict(ours)["__moontide.errors.first_seen_ms"] == b"5"


def test_attempts_that_are_no_number_start_anew():
    for bad in (None, b"", b"x", b"-1", b"9" * 30, "٣".encode()):
        headers = (("__moontide.errors.attempts", bad),)
        assert dict(dead_letter(result(MESSAGE._replace(headers=headers)), 5).headers)["__moontide.errors.attempts"] == b"2"


def test_what_the_client_cannot_send_is_emptied_and_named():
    (letter,) = sent(result(Message("item-events", 0, 0, None, None, (("a", None), ("b", b"1"), ("c", None)))))
    theirs, ours = split_headers(letter.headers)
    assert (letter.key, letter.value, theirs) == (b"", None, (("a", b""), ("b", b"1"), ("c", b"")))
    assert dict(ours)["__moontide.errors.substituted"] == b"key,header:0,header:2"


def test_a_record_without_a_key_keeps_having_none():
    (letter,) = sent(result(MESSAGE._replace(key=None)))
    assert letter.key is None and original(letter).key is None


@pytest.mark.parametrize("failure", ["at once", "later"])
def test_a_value_too_large_leaves_a_claim(failure):
    big = MESSAGE._replace(value=b"x" * 20_000)
    producer = Producer() if failure == "at once" else Producer(Ack(MessageSizeTooLargeError()), most=1 << 20)
    letters = DeadLetters(producer, clock=lambda: 5_000_000)
    letters.send(result(big, reason="too_large"))
    letters.wait()
    letter = producer.sent[-1]
    ours = dict(split_headers(letter.headers)[1])
    assert ours["__moontide.errors.value_sha256"] == hashlib.sha256(big.value).hexdigest().encode()
    assert ours["__moontide.errors.value_bytes"] == b"20000" and letter.key == b"or:1"
    assert split_headers(letter.headers)[0] == MESSAGE.headers
    assert letter.value is not None, "a null value would be a delete where it is replayed"
    with pytest.raises(Poison, match="only its digest"):
        original(letter)


def test_a_claim_drops_huge_keys_and_headers_too_and_has_no_smaller_one():
    whole = dead_letter(result(MESSAGE._replace(key=b"k" * 2_000, headers=(("h", b"x" * 20_000), ("n", None)))), 5)
    less = claim(whole)
    theirs, ours = split_headers(less.headers)
    assert less.key == b"" and theirs == () and dict(ours)["__moontide.errors.substituted"] == b"header:1,key,headers"
    assert claim(less) is None
    with pytest.raises(Misconfigured, match="max.message.bytes"):
        sent(result(), most=10)


def test_one_that_is_on_its_way_is_not_sent_twice():
    producer, seen = Producer(Ack(NotLeaderForPartitionError())), []
    letters = DeadLetters(producer, clock=lambda: 0, trace=seen.append)
    letters.send(result())
    letters.send(result())
    letters.send(result(MESSAGE._replace(offset=100)))
    assert len(producer.sent) == 2 and seen == [Point.DEAD_LETTER_SENT] * 3
    letters.wait()
    letters.wait()
    assert [message.value for message in producer.sent] == [MESSAGE.value] * 3


def test_what_is_no_dead_letter_is_not_replayed():
    with pytest.raises(Poison, match="expected a dead letter"):
        original(MESSAGE)
    with pytest.raises(Poison, match="expected a dead letter"):
        original(MESSAGE._replace(headers=(("__connect.errors.topic", b"no topic/"),)))


def test_the_message_is_cut():
    letter = dead_letter(result(detail="x" * 5_000), 5)
    assert len(dict(letter.headers)["__connect.errors.exception.message"]) == 1_000
