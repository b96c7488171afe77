"""Log lines: JSON, redacted, bounded."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from moontide.events import BadEvent, parse_item
from moontide.logs import HIDDEN, MOST_LINES, WINDOW, JsonLines, RateLimit, Redactor, configure, secrets_of
from moontide.settings import Settings
from streaming.dead_letters import dead_letter
from streaming.message import Message, Result, Verdict
from streaming.metrics import Metrics

pytestmark = pytest.mark.unit
CANARIES = ["kafka-canary-1", "redis canary/2", "milvus-canary-3", "uri-canary-4"]


@pytest.fixture
def log():
    """A logger of its own and what it wrote, with the root as it was afterwards."""
    root = logging.getLogger()
    before, level, libraries = list(root.handlers), root.level, {}
    for name in ("streaming", "moontide", "encoders", "kafka", "pymilvus", "grpc._server"):
        logger = logging.getLogger(name)
        libraries[name] = (list(logger.handlers), logger.level, logger.propagate)
    stream = io.StringIO()
    handler = configure(stream, level="INFO", secrets=CANARIES)

    def lines():
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield logging.getLogger("streaming.test"), lines
    handler.close()
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)
    for name, (handlers, old, propagate) in libraries.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(old)
        logging.getLogger(name).propagate = propagate


def test_a_line_is_json_with_its_fields(log):
    logger, lines = log
    extra = {
        "position": Message("item-events", 3, 17, None, None).position,
        "entity": "or:1",
        "verdict": Verdict.STALE,
        "seconds": 0.1234567891,
    }
    logger.info("settled %d", 2, extra=extra)
    (line,) = lines()
    assert line["ts"].endswith("Z")
    assert {k: line[k] for k in ("level", "logger", "message", "position", "entity", "verdict", "seconds")} == {
        "level": "info",
        "logger": "streaming.test",
        "message": "settled 2",
        "position": "item-events[3]@17",
        "entity": "or:1",
        "verdict": "stale",
        "seconds": 0.123457,
    }


def test_what_events_say_cannot_forge_a_line(log):
    logger, lines = log
    logger.info('x\n{"level": "error"}', extra={"entity": "a\nb\ud800", "reason": float("nan"), "n": None, "many": [1, 2]})
    (line,) = lines()
    assert line["level"] == "info"
    assert line["entity"] == "a\nb\ud800"
    assert line["reason"] == "nan"
    assert line["n"] is None


def test_secrets_appear_nowhere(log):
    logger, lines = log
    for canary in CANARIES:
        logger.info("connecting with %s", canary, extra={"reason": f"refused {canary}", "many": {"password": canary}})
        try:
            raise RuntimeError(f"bad login {canary}")
        except RuntimeError:
            logger.exception("failed")
    text = json.dumps(lines())
    assert HIDDEN in text
    assert not [canary for canary in CANARIES if canary in text]


def test_an_address_loses_its_user_and_password_known_or_not(log):
    logger, lines = log
    logger.info("redis://user:unknown@host:6379/0 and https://host/path?x=a:b@c")
    assert lines()[0]["message"] == f"redis://{HIDDEN}@host:6379/0 and https://host/path?x=a:b@c"


def test_every_secret_of_the_settings_is_known():
    settings = Settings(
        kafka_password=CANARIES[0],
        redis_url="rediss://me:redis%20canary%2F2@host:6379/0",
        index_token=f"root:{CANARIES[2]}",
        index_uri=f"http://u:{CANARIES[3]}@milvus:19530",
        serving_tokens="first-canary, second-canary",
    )
    assert {"first-canary", "second-canary"} < set(secrets_of(settings))
    assert set(CANARIES) < set(secrets_of(settings))
    assert "redis%20canary%2F2" in secrets_of(settings)
    from pydantic import SecretStr

    secret = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    assert secret == {"kafka_password", "redis_url", "index_token", "serving_tokens"}, "a new secret: teach secrets_of"


def test_no_secrets_hide_nothing():
    assert secrets_of(Settings(redis_url="redis://127.0.0.1:6379/0")) == []
    assert Redactor(["", "abc"])("abcdef") == "abcdef"


def test_the_longer_of_two_secrets_is_hidden_whole():
    assert Redactor(["canary", "canary-two"])("a canary-two b") == f"a {HIDDEN} b"


def test_metrics_hold_no_secrets():
    metrics = Metrics()
    message = Message("item-events", 0, 0, CANARIES[0].encode(), CANARIES[0].encode())
    metrics.settled([Result(message, Verdict.DEAD, reason=CANARIES[0], detail=CANARIES[0], entity_id=CANARIES[0])])
    metrics.failed("online", RuntimeError(CANARIES[0]))
    assert CANARIES[0].encode() not in metrics.render()[0]


def test_a_flood_is_cut_and_counted(log):
    logger, lines = log
    for n in range(10 * MOST_LINES):
        logger.warning("dead letter", extra={"position": f"item-events[0]@{n}"})
    logger.warning("something else")
    assert [line["message"] for line in lines()] == ["dead letter"] * MOST_LINES + ["something else"]


def test_the_next_window_says_how_many_were_left_out():
    now = [0.0]
    limit = RateLimit(lambda: now[0])

    def record():
        return logging.LogRecord("a", logging.WARNING, "f.py", 7, "x", (), None)

    passed = [limit.filter(record()) for _ in range(MOST_LINES + 5)]
    assert sum(passed) == MOST_LINES
    assert limit.left_out() == 5
    now[0] = WINDOW
    late, later = record(), record()
    assert limit.filter(late)
    assert limit.filter(later)
    assert late.left_out == 5
    assert json.loads(JsonLines(Redactor()).format(late))["left_out"] == 5
    assert not hasattr(later, "left_out")


def test_libraries_speak_through_the_same_handler_from_warning_on(log):
    _, lines = log
    assert logging.getLogger("kafka").level == logging.WARNING
    for name in ("kafka.coordinator", "pymilvus.client", "grpc._server", "faiss.loader"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble with %s", CANARIES[0])
    assert [(line["logger"], line["message"]) for line in lines()] == [
        ("kafka.coordinator", f"trouble with {HIDDEN}"),
        ("faiss.loader", f"trouble with {HIDDEN}"),
    ]


def test_a_call_with_wrong_arguments_is_still_a_line():
    record = logging.LogRecord("a", logging.INFO, "f.py", 1, "%d of %d", ("x",), None)
    assert "arguments do not fit" in JsonLines(Redactor()).format(record)


def test_long_texts_are_cut():
    try:
        raise ValueError("v" * 10_000)
    except ValueError:
        record = logging.LogRecord("a", logging.INFO, "f.py", 1, "m" * 10_000, (), sys.exc_info())
    line = json.loads(JsonLines(Redactor()).format(record))
    assert len(line["message"]) < 2_100
    assert len(line["traceback"]) < 4_200
    assert line["error"] == "ValueError"


def test_configured_twice_a_line_comes_once(log):
    logger, lines = log
    again = io.StringIO()
    configure(again, level="INFO", settings=Settings(kafka_password="another-canary"))
    logger.info("once, not another-canary")
    assert lines() == []
    assert len(again.getvalue().splitlines()) == 1
    assert "canary" not in again.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        b"canary",
        b'{"canary": 1',
        b'{"schema_version": 1, "canary": "canary"}',
        b'{"schema_version": "canary"}',
        b'{"schema_version": 1, "event_id": "e", "op": "canary", "item_id": "i", "source_version": 1}',
        b'{"schema_version": 1, "event_id": "e", "op": "c", "item_id": "not an id canary", "source_version": 1}',
        b'{"schema_version": 1, "event_id": "e", "op": "c", "item_id": "i", "source_version": 1, "event_timestamp": "canary"}',
        b'{"schema_version": 1, "event_id": "e", "op": "c", "item_id": "i", "source_version": 1,'
        b' "event_timestamp": "2026-01-01T00:00:00Z", "content": {"title": 7, "description": "canary"}}',
    ],
)
def test_headers_of_a_dead_letter_say_nothing_of_what_the_event_holds(value):
    with pytest.raises(BadEvent) as caught:
        parse_item(b"i", value, (), 1_700_000_000_000, now_us=1_800_000_000_000_000)
    error = caught.value
    message = Message("item-events", 0, 0, b"i", value)
    result = Result(message, Verdict.DEAD, error.event_id, error.entity_id, error.reason, error.detail)
    letter = dead_letter(result, 0)
    assert letter.value == value
    assert not [name for name, text in letter.headers if b"canary" in (text or b"")]
