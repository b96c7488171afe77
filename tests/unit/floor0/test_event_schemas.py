"""The published JSON Schemas say what the parser does, and no bytes make it fail otherwise than by `BadEvent`."""

import calendar
import json
import math
import re
from datetime import datetime
from pathlib import Path

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moontide.events import BadEvent, EventReason, parse_behaviour, parse_item

pytestmark = pytest.mark.unit
DOCS = Path(__file__).parents[3] / "docs" / "reference"
NOW = 253_402_300_800_000_000
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date-time")
def exists(value):
    """The days of the calendar, the hours of a day, and not before 1970 in UTC: what a pattern cannot say."""
    if not isinstance(value, str):
        return True
    found = re.match(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2})", value)
    if found is None:
        return True
    year, month, day, hour, minute = map(int, found.groups())
    fits = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1] and hour < 24 and minute < 60
    return fits and (year != 1970 or datetime.fromisoformat(value).timestamp() >= 0)


def anchored(validator, pattern, instance, schema):
    # Python's $ also matches before a last line break; that of JSON Schema does not.
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield jsonschema.ValidationError(f"does not match {pattern}")


def validator(name):
    schema = json.loads((DOCS / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": anchored}, type_checker=types)
    return strict(schema, format_checker=FORMATS)


ITEM, BEHAVIOUR = validator("item-event.schema.json"), validator("behaviour-event.schema.json")
IDS = st.from_regex(r"[A-Za-z0-9._:\-]{1,64}", fullmatch=True)
EVENT_IDS = st.from_regex(r"[ -~]{1,128}", fullmatch=True)
DATES = st.datetimes(datetime.fromisoformat("1970-01-02"), datetime.fromisoformat("9999-12-30"))
TIMES = st.one_of(
    DATES.map(lambda at: at.isoformat() + "Z"),
    DATES.map(lambda at: at.isoformat(timespec="milliseconds") + "-05:30"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
OPTIONAL = st.one_of(st.none(), TEXT)
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "title": OPTIONAL,
        "description": OPTIONAL,
        "attributes": OPTIONAL,
        "image": OPTIONAL,
        "image_base64": st.sampled_from([None, "", "QUJD", "QUI=", "QQ==", "QQ=", "QUJD\n", "=QUJ", "QU=D", "Q Q="]),
        "category": OPTIONAL,
        "price": st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    },
)
ITEMS = st.fixed_dictionaries(
    {
        "schema_version": st.just(1),
        "event_id": EVENT_IDS,
        "op": st.sampled_from(["create", "update", "delete", "c", "u", "r", "d"]),
        "item_id": IDS,
        "source_version": st.integers(-(2**63), 2**63 - 1),
        "event_timestamp": TIMES,
    },
    optional={"content": CONTENT, "content_ref": OPTIONAL, "other": TEXT},
)
BEHAVIOURS = st.fixed_dictionaries(
    {
        "schema_version": st.just(1),
        "event_id": EVENT_IDS,
        "user_id": IDS,
        "item_id": IDS,
        "action": st.from_regex(r"[a-z0-9_.\-]{1,32}", fullmatch=True),
        "event_timestamp": TIMES,
    }
)
VALUES = [None, True, 1, 2, 1.0, 7.0, 1e308, 1e39, 10**400, 2**63 - 1, 2**63, -(2**63) - 1, [], {}, [1], {"title": "x"}]
STRINGS = [
    "",
    " ",
    "a\n",
    "a b",
    "é",
    "u",
    "Buy",
    "QQ==",
    *("x" * n for n in (32, 33, 64, 65, 128, 129, 1_000, 1_001, 4_096, 4_097)),
]
MOMENTS = [
    "2026-02-29T00:00:00Z",
    "2024-02-29T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01T00:00:00",
    "2026-01-01T00:00:00.1234567891Z",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00Z\n",
    "1970-01-01T00:00:00+00:01",
    "1969-12-31T23:59:59Z",
    "1969-12-31T23:59:59-01:00",
    "0000-01-01T00:00:00Z",
    "2026-W01-1T00:00:00Z",
    "2026-01-01t00:00:00z",
]
SAMPLES = [*VALUES, *STRINGS, *MOMENTS]
JUNK = st.one_of(st.integers(), st.sampled_from(SAMPLES), TEXT, CONTENT)


def mutated(events, names):
    """An event with up to two fields left out or replaced."""
    changes = st.lists(st.tuples(st.sampled_from(names), st.one_of(st.just(...), JUNK)), max_size=2)
    return st.tuples(events, changes).map(lambda pair: {k: v for k, v in {**pair[0], **dict(pair[1])}.items() if v is not ...})


def agrees(schema, parse, event):
    assert not any(isinstance(value, float) and math.isinf(value) for value in event.values())
    raw = json.dumps(event).encode()
    try:
        parse(raw)
        refused = None
    except BadEvent as error:
        refused = error
    problems = [error.message[:200] for error in schema.iter_errors(event)]
    assert bool(problems) == (refused is not None), (problems, refused)


@settings(max_examples=300, deadline=None)
@given(mutated(ITEMS, [*json.loads((DOCS / "item-event.schema.json").read_text())["properties"], "content", "content_ref"]))
@example({"schema_version": 1})
def test_items_agree(event):
    agrees(ITEM, lambda raw: parse_item(None, raw, (), -1, now_us=NOW), event)


@settings(max_examples=150, deadline=None)
@given(mutated(BEHAVIOURS, list(json.loads((DOCS / "behaviour-event.schema.json").read_text())["properties"])))
def test_behaviours_agree(event):
    agrees(BEHAVIOUR, lambda raw: parse_behaviour(None, raw, now_us=NOW), event)


def test_the_generated_events_are_not_all_refused():
    whole = {**dict.fromkeys(("event_id", "item_id"), "a"), "schema_version": 1, "op": "c", "source_version": 1}
    for more in ({"content": {"title": "x"}}, {"content_ref": "a.json"}, {"op": "d"}):
        event = {**whole, "event_timestamp": "2026-01-31T12:00:00Z", **more}
        assert ITEM.is_valid(event) and parse_item(None, json.dumps(event).encode(), (), -1, now_us=NOW)


def test_every_field_agrees_on_every_sample():
    item = {"schema_version": 1, "event_id": "e", "op": "c", "item_id": "a", "source_version": 1, "content": {"title": "x"}}
    item["event_timestamp"] = "2026-01-31T12:00:00Z"
    for name in [*item, "content_ref"]:
        for value in SAMPLES:
            agrees(ITEM, lambda raw: parse_item(None, raw, (), -1, now_us=NOW), {**item, name: value})
    for name in ("title", "description", "attributes", "image", "image_base64", "category", "price"):
        for value in [*SAMPLES, "x" * 1_000_000, "x" * 1_000_001]:
            for content in ({name: value}, {"title": "x", name: value}, {"image": "x", name: value}):
                agrees(ITEM, lambda raw: parse_item(None, raw, (), -1, now_us=NOW), {**item, "content": content})
    behaviour = {"schema_version": 1, "event_id": "e", "user_id": "u", "item_id": "a", "action": "buy"}
    behaviour["event_timestamp"] = item["event_timestamp"]
    for name in behaviour:
        for value in SAMPLES:
            agrees(BEHAVIOUR, lambda raw: parse_behaviour(None, raw, now_us=NOW), {**behaviour, name: value})


PIECES = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b'"op"',
        b"NaN",
        b"1e999",
        b"\\ud800",
        b"\xff",
        b"\x00",
        b'"item_id":',
        b"null",
        b" ",
    ]
)
BYTES = st.one_of(
    st.binary(max_size=200), st.lists(PIECES, max_size=40).map(b"".join), ITEMS.map(lambda e: json.dumps(e).encode()[:-3])
)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.none(), st.binary(max_size=70)),
    st.one_of(st.none(), BYTES),
    st.lists(st.tuples(st.sampled_from(["source_version", "h"]), st.one_of(st.none(), st.binary(max_size=22))), max_size=3),
    st.integers(-1, 2**62),
)
def test_any_bytes_are_an_event_or_a_bad_event(key, value, headers, timestamp_ms):
    for call in (
        lambda: parse_item(key, value, tuple(headers), timestamp_ms, now_us=NOW),
        lambda: parse_behaviour(key, value, now_us=NOW),
    ):
        try:
            call()
        except BadEvent as error:
            assert error.reason in EventReason and error.detail


@pytest.mark.parametrize("reason", list(EventReason))
def test_the_page_lists_every_reason(reason):
    assert f"`{reason.value}`" in (DOCS / "events.md").read_text()


def test_the_examples_of_the_page_are_events():
    blocks = re.findall(r"```json\n(.*?)```", (DOCS / "events.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        event = json.loads(block)
        schema, parse = (BEHAVIOUR, parse_behaviour) if "user_id" in event else (ITEM, None)
        agrees(schema, lambda raw: parse(None, raw, now_us=NOW) if parse else parse_item(None, raw, (), -1, now_us=NOW), event)
        assert schema.is_valid(event)
