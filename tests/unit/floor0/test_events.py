"""What is an event and what is poison; every case that was thought of is kept here."""

import base64
import json

import pytest

from moontide import order
from moontide.events import (
    MAX_DEPTH,
    BadEvent,
    BehaviourEvent,
    Content,
    EventReason,
    ItemEvent,
    behaviour_event_json,
    item_event_json,
    parse_behaviour,
    parse_content,
    parse_item,
    rfc3339,
)

pytestmark = pytest.mark.unit
NOW = 1_800_000_000_000_000
EVENT = {
    "schema_version": 1,
    "event_id": "e-1",
    "op": "update",
    "item_id": "or:1",
    "source_version": 7,
    "event_timestamp": "2026-01-31T12:00:00.5Z",
    "content": {"title": "globe"},
}
BEHAVIOUR = {
    "schema_version": 1,
    "event_id": "b-1",
    "user_id": "u:1",
    "item_id": "or:1",
    "action": "purchase",
    "event_timestamp": "2026-01-31T14:00:00+02:00",
}
AT = 1_769_860_800_000_000


def item(value, key=None, headers=(), timestamp_ms=5, **more):
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return parse_item(key, raw, headers, timestamp_ms, now_us=NOW, **more)


def refused(call, *args, **more):
    with pytest.raises(BadEvent) as caught:
        call(*args, **more)
    assert len(str(caught.value)) < 300
    return caught.value


def changed(**fields):
    return {name: value for name, value in {**EVENT, **fields}.items() if value is not ...}


def with_content(**fields):
    return changed(content=fields)


@pytest.mark.parametrize("op", ["create", "update", "c", "u", "r"])
def test_writes(op):
    assert item(changed(op=op), b"or:1") == ItemEvent("e-1", "or:1", 7, AT + 500_000, False, Content(title="globe"))


@pytest.mark.parametrize("op", ["delete", "d"])
@pytest.mark.parametrize("content", [..., None, 3, {"title": "was"}])
def test_deletes_look_at_no_content(op, content):
    assert item(changed(op=op, content=content)) == ItemEvent("e-1", "or:1", 7, AT + 500_000, True)


def test_content_whole_or_by_reference():
    whole = Content("t", "d", "a", b"\x89PNG", "c", 3.5)
    given = {"title": "t", "description": "d", "attributes": "a", "category": "c", "price": 3.5}
    given["image_base64"] = base64.b64encode(b"\x89PNG").decode()
    assert item(changed(content=given)).content == whole == parse_content(json.dumps(given).encode())
    assert item(with_content(image="a/b.jpg", price=2)).content == Content(image="a/b.jpg", price=2.0)
    by_reference = item(changed(content=None, content_ref="s3://b/k.json"))
    assert (by_reference.content, by_reference.content_ref) == (None, "s3://b/k.json")


def test_unknown_fields_pass_and_null_is_missing():
    more = changed(added=[{"x": 1e308}], content={"title": "globe", "image": None, "price": None, "new": 10**60})
    assert item(more) == item(EVENT)


@pytest.mark.parametrize("name", [name for name in EVENT])
def test_every_field_is_needed(name):
    for missing in (..., None):
        error = refused(item, changed(**{name: missing}))
        assert error.reason is EventReason.MISSING_FIELD and error.detail.startswith(f"{name}: expected")


WRONG = [
    ("schema_version", "1", EventReason.WRONG_TYPE),
    ("schema_version", True, EventReason.WRONG_TYPE),
    ("schema_version", 2, EventReason.UNKNOWN_SCHEMA),
    ("event_id", 5, EventReason.INVALID_ID),
    ("event_id", "", EventReason.INVALID_ID),
    ("event_id", "a\n", EventReason.INVALID_ID),
    ("event_id", "x" * 129, EventReason.INVALID_ID),
    ("op", "upsert", EventReason.WRONG_TYPE),
    ("op", ["u"], EventReason.WRONG_TYPE),
    ("item_id", "a b", EventReason.INVALID_ID),
    ("item_id", "x" * 65, EventReason.INVALID_ID),
    ("item_id", "a\n", EventReason.INVALID_ID),
    ("item_id", 12, EventReason.INVALID_ID),
    ("source_version", True, EventReason.WRONG_TYPE),
    ("source_version", 7.0, EventReason.WRONG_TYPE),
    ("source_version", "7", EventReason.WRONG_TYPE),
    ("source_version", 2**63, EventReason.WRONG_TYPE),
    ("source_version", -(2**63) - 1, EventReason.WRONG_TYPE),
    ("event_timestamp", 1_700_000_000, EventReason.WRONG_TYPE),
    ("event_timestamp", "2026-01-31", EventReason.WRONG_TYPE),
    ("event_timestamp", "2026-01-31T12:00:00", EventReason.WRONG_TYPE),
    ("event_timestamp", "2026-01-31 12:00:00Z", EventReason.WRONG_TYPE),
    ("event_timestamp", "2026-02-30T12:00:00Z", EventReason.WRONG_TYPE),
    ("event_timestamp", "2026-01-31T12:00:60Z", EventReason.WRONG_TYPE),
    ("event_timestamp", "20260131T120000Z", EventReason.WRONG_TYPE),
    ("event_timestamp", "٢٠٢٦-01-31T12:00:00Z", EventReason.WRONG_TYPE),
    ("event_timestamp", "1969-12-31T23:59:59Z", EventReason.WRONG_TYPE),
    ("event_timestamp", "1970-01-01T00:00:00+00:01", EventReason.WRONG_TYPE),
    ("event_timestamp", "0001-01-01T00:00:00+14:00", EventReason.WRONG_TYPE),
    ("event_timestamp", "2100-01-01T00:00:00Z", EventReason.TIME_AHEAD),
    ("content", "globe", EventReason.WRONG_TYPE),
    ("content", [], EventReason.WRONG_TYPE),
    ("content_ref", "both.json", EventReason.WRONG_TYPE),
    ("content_ref", "", EventReason.WRONG_TYPE),
    ("content_ref", "x" * 4_097, EventReason.TOO_LARGE),
]


@pytest.mark.parametrize("name, value, reason", WRONG)
def test_wrong_fields(name, value, reason):
    error = refused(item, changed(**{name: value}))
    assert error.reason is reason
    assert ": expected" in error.detail and ", got" in error.detail
    assert error.event_id == (None if name == "event_id" else "e-1")
    assert error.entity_id == (None if name == "item_id" else "or:1")


WRONG_CONTENT = [
    ({}, EventReason.NO_CONTENT),
    ({"title": " \t", "description": "", "category": "x", "price": 1}, EventReason.NO_CONTENT),
    ({"title": 5}, EventReason.WRONG_TYPE),
    ({"title": "x" * 1_000_001}, EventReason.TOO_LARGE),
    ({"title": "x", "category": "y" * 1_001}, EventReason.TOO_LARGE),
    ({"attributes": {"colour": "red"}}, EventReason.WRONG_TYPE),
    ({"image": ""}, EventReason.WRONG_TYPE),
    ({"image": "x" * 4_097}, EventReason.TOO_LARGE),
    ({"image_base64": ""}, EventReason.WRONG_TYPE),
    ({"image_base64": "QUJD\n"}, EventReason.WRONG_TYPE),
    ({"image_base64": "QUJ"}, EventReason.WRONG_TYPE),
    ({"image_base64": "é==="}, EventReason.WRONG_TYPE),
    ({"image": "a.jpg", "image_base64": "QUJD"}, EventReason.WRONG_TYPE),
    ({"title": "x", "price": "3"}, EventReason.WRONG_TYPE),
    ({"title": "x", "price": True}, EventReason.WRONG_TYPE),
    ({"title": "x", "price": 1e39}, EventReason.WRONG_TYPE),
    ({"title": "x", "price": 10**400}, EventReason.WRONG_TYPE),
]


@pytest.mark.parametrize("content, reason", WRONG_CONTENT)
def test_wrong_content(content, reason):
    assert refused(item, changed(content=content)).reason is reason
    assert refused(parse_content, json.dumps(content).encode()).reason is reason


def wrapped(inner: bytes) -> bytes:
    return json.dumps(EVENT).encode()[:-1] + b', "x": ' + inner + b"}"


BYTES = [
    (b"", EventReason.NOT_JSON),
    (b"\x00", EventReason.NOT_JSON),
    (b"\xff\xfe{}", EventReason.NOT_JSON),
    (b"\xef\xbb\xbf{}", EventReason.NOT_JSON),
    (b"\x00\x00\x00\x00\x01avro", EventReason.NOT_JSON),
    (json.dumps(EVENT).encode()[:-1], EventReason.NOT_JSON),
    (json.dumps(EVENT).encode() + b"{}", EventReason.NOT_JSON),
    (wrapped(b"NaN"), EventReason.NOT_JSON),
    (wrapped(b"Infinity"), EventReason.NOT_JSON),
    (wrapped(b"-Infinity"), EventReason.NOT_JSON),
    (wrapped(b"1e999"), EventReason.NOT_JSON),
    (wrapped(b"1" * 5_000), EventReason.NOT_JSON),
    (wrapped(b'"\\ud800"'), EventReason.NOT_JSON),
    (wrapped(b'{"\\uDFFF": 1}'), EventReason.NOT_JSON),
    (wrapped(b'"\xed\xa0\x80"'), EventReason.NOT_JSON),
    (wrapped(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), EventReason.TOO_DEEP),
    (wrapped(b"[" * 100_000 + b"]" * 100_000), EventReason.TOO_DEEP),
    (b"[" * 100_000, EventReason.TOO_DEEP),
    (b'{"a":' * 100_000, EventReason.TOO_DEEP),
    (wrapped(b'{"a": 1, "a": 1}'), EventReason.DUPLICATE_KEY),
    (wrapped(b'1, "op": "delete"'), EventReason.DUPLICATE_KEY),
    (b"null", EventReason.WRONG_TYPE),
    (b"[]", EventReason.WRONG_TYPE),
    (b'"x"', EventReason.WRONG_TYPE),
]


@pytest.mark.parametrize("raw, reason", BYTES)
def test_bytes_that_are_no_event(raw, reason):
    assert refused(item, raw).reason is reason
    assert refused(parse_behaviour, None, raw, now_us=NOW).reason is reason


def test_what_looks_bad_and_is_not():
    for fine in (b"1e308", b'"\\ud83d\\ude00"', b'"\\\\ud800"', b'"' + b"[{" * 1_000 + b'"', b"[" * 31 + b"]" * 31):
        assert item(wrapped(fine)) == item(EVENT)


def test_size_is_the_callers():
    raw = json.dumps(EVENT).encode()
    assert item(raw, max_bytes=len(raw)) == item(EVENT)
    assert refused(item, raw, max_bytes=len(raw) - 1).reason is EventReason.TOO_LARGE
    assert refused(item, raw + b" " * (8 << 20)).reason is EventReason.TOO_LARGE


def test_the_key_is_null_or_the_entity():
    assert item(EVENT, None) == item(EVENT, b"or:1")
    for key in (b"or:2", b"", b"\xff"):
        assert refused(item, EVENT, key).reason is EventReason.KEY_MISMATCH
    raw = json.dumps(BEHAVIOUR).encode()
    assert parse_behaviour(b"u:1", raw, now_us=NOW) == parse_behaviour(None, raw, now_us=NOW)
    error = refused(parse_behaviour, b"or:1", raw, now_us=NOW)
    assert (error.reason, error.event_id, error.entity_id) == (EventReason.KEY_MISMATCH, "b-1", "u:1")


def test_time_ahead_has_a_tolerance():
    at = rfc3339(NOW + order.MAX_AHEAD_US)
    assert item(changed(event_timestamp=at)).event_us == NOW + order.MAX_AHEAD_US
    later = rfc3339(NOW + order.MAX_AHEAD_US + 1)
    assert refused(item, changed(event_timestamp=later)).reason is EventReason.TIME_AHEAD
    assert refused(item, None, b"a", (), NOW // 1_000 + 300_001).reason is EventReason.TIME_AHEAD


def test_digits_beyond_microseconds_are_cut_off():
    assert item(changed(event_timestamp="2026-01-31T12:00:00.123456999Z")).event_us == AT + 123_456


@pytest.mark.parametrize("version", [None, 0, -5, 2**63 - 1])
def test_tombstones(version):
    headers = () if version is None else (("trace", b"\xff"), ("source_version", str(version).encode()))
    assert item(None, b"or:1", headers, 1_700) == ItemEvent("", "or:1", version, 1_700_000, True)


@pytest.mark.parametrize(
    "key, headers, timestamp_ms, reason",
    [
        (None, (), 5, EventReason.INVALID_ID),
        (b"", (), 5, EventReason.INVALID_ID),
        (b"a b", (), 5, EventReason.INVALID_ID),
        (b"\xff", (), 5, EventReason.INVALID_ID),
        (b"a", (), -1, EventReason.MISSING_FIELD),
        (b"a", (("source_version", None),), 5, EventReason.WRONG_TYPE),
        (b"a", (("source_version", b""),), 5, EventReason.WRONG_TYPE),
        (b"a", (("source_version", b"1_0"),), 5, EventReason.WRONG_TYPE),
        (b"a", (("source_version", "٣".encode()),), 5, EventReason.WRONG_TYPE),
        (b"a", (("source_version", b"9223372036854775808"),), 5, EventReason.WRONG_TYPE),
        (b"a", (("source_version", b"1"), ("source_version", b"1")), 5, EventReason.DUPLICATE_KEY),
    ],
)
def test_bad_tombstones(key, headers, timestamp_ms, reason):
    error = refused(item, None, key, headers, timestamp_ms)
    assert error.reason is reason and error.entity_id == ("a" if key == b"a" else None)


def test_behaviours():
    raw = json.dumps({**BEHAVIOUR, "more": {}}).encode()
    assert parse_behaviour(b"u:1", raw, now_us=NOW) == BehaviourEvent("b-1", "u:1", "or:1", "purchase", AT)
    assert refused(parse_behaviour, b"u:1", None, now_us=NOW).reason is EventReason.WRONG_TYPE
    for name in BEHAVIOUR:
        less = {key: value for key, value in BEHAVIOUR.items() if key != name}
        assert refused(parse_behaviour, None, json.dumps(less).encode(), now_us=NOW).reason is EventReason.MISSING_FIELD
    for action in ("", "Buy", "x" * 33, "a b", 3, ["buy"]):
        wrong = json.dumps({**BEHAVIOUR, "action": action}).encode()
        assert refused(parse_behaviour, None, wrong, now_us=NOW).reason is EventReason.WRONG_TYPE


def test_a_refusal_shows_no_payload():
    secret = "hunter2"
    for name in EVENT:
        if name not in ("event_id", "item_id"):
            assert secret not in str(refused(item, changed(**{name: secret})))
    for raw in (secret.encode(), b'{"%s": nul}' % secret.encode(), b'{"%s": 1, "%s": 2}' % ((secret.encode(),) * 2)):
        assert secret not in str(refused(item, raw))
    assert secret not in str(refused(item, EVENT, secret.encode()))


def test_writers_write_what_the_parser_reads():
    for event in (
        ItemEvent("e", "a", -3, 0, False, Content("é\u0000", None, "x: y", b"\xff", "c", 0.1)),
        ItemEvent("e", "a", 3, AT + 1, False, Content(image="p.jpg")),
        ItemEvent("e", "a", 3, AT, False, None, "ref.json"),
        ItemEvent("e", "a", 2**63 - 1, AT, True),
    ):
        assert parse_item(b"a", item_event_json(event), (), -1, now_us=NOW) == event
    behaviour = BehaviourEvent("e", "u", "a", "buy", AT)
    assert parse_behaviour(b"u", behaviour_event_json(behaviour), now_us=NOW) == behaviour
    with pytest.raises(ValueError, match="tombstone"):
        item_event_json(ItemEvent("", "a", None, AT, True))
