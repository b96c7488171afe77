"""Lines of an event file, and a file that is refused before anything is sent."""

import io
import json
from pathlib import Path

import pytest

from moontide.__main__ import main
from moontide.cli import produce as module
from moontide.cli.produce import Line, produce, read_line
from moontide.errors import Poison
from moontide.settings import Settings

pytestmark = pytest.mark.unit
ITEM = {
    "schema_version": 1,
    "event_id": "e-1",
    "op": "update",
    "item_id": "or:1",
    "source_version": 7,
    "event_timestamp": "2026-01-31T12:00:00Z",
    "content": {"title": "globe"},
}


def test_events_go_where_their_fields_say():
    text = json.dumps(ITEM)
    assert read_line(text + "\n") == Line("item-events", b"or:1", text.encode())
    behaviour = json.dumps({"user_id": "u:1", "item_id": "or:1", "topic": "unknown fields pass", "schema_version": 1, "value": 3})
    assert read_line(behaviour) == Line("behaviour-events", b"u:1", behaviour.encode())
    assert read_line(text, "other").topic == "other"
    assert read_line("{}") == Line("item-events", None, b"{}")


@pytest.mark.parametrize(
    "wrapper, line",
    [
        ({"key": "a", "value": None}, Line("t", b"a", None, raw=True)),
        ({"value": "{broken"}, Line("t", None, b"{broken", raw=True)),
        ({"value": {"é": 1}}, Line("t", None, '{"é":1}'.encode(), raw=True)),
        ({"value_base64": "/wA="}, Line("t", None, b"\xff\x00", raw=True)),
        (
            {"key": "a", "value": None, "headers": [["source_version", "7"], ["h", ""]], "timestamp_ms": 9},
            Line("t", b"a", None, (("source_version", b"7"), ("h", b"")), 9, raw=True),
        ),
    ],
)
def test_wrapped_records(wrapper, line):
    assert read_line(json.dumps({"topic": "t", **wrapper})) == line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "[" * 100_000,
        '{"topic": 1, "value": null}',
        '{"topic": "a b", "value": "x"}',
        '{"topic": "t", "value": null}',
        '{"topic": "t", "value": "x", "timestamp_ms": -1}',
        '{"topic": "t", "value": null, "key": 1}',
        '{"topic": "t", "value": null, "other": 1}',
        '{"topic": "t", "value": null, "headers": {"a": "b"}}',
        '{"topic": "t", "value": null, "headers": [["a"]]}',
        '{"topic": "t", "value": null, "timestamp_ms": "1"}',
        '{"topic": "t", "key": "k", "value": null, "timestamp_ms": 9223372036854775808}',
        '{"topic": "t", "value_base64": "?"}',
        '{"topic": "t", "value_base64": 3}',
    ],
)
def test_other_lines_are_refused(text):
    with pytest.raises(Poison, match="expected"):
        read_line(text)


def test_a_bad_line_is_named_before_a_broker_is_looked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MOONTIDE_KAFKA_SERVERS", "127.0.0.1:1")
    source = tmp_path / "events.jsonl"
    source.write_text(json.dumps(ITEM) + "\n\n" + json.dumps({**ITEM, "source_version": "7"}) + "\n")
    assert main(["produce", str(source)]) == 1
    assert "line 3: wrong_type: source_version: expected an integer" in capsys.readouterr().err
    assert main(["produce", str(tmp_path / "absent")]) == 1
    assert "expected a readable text file" in capsys.readouterr().err


BEHAVIOUR = {
    "schema_version": 1,
    "event_id": "b-1",
    "user_id": "u:1",
    "item_id": "or:1",
    "action": "click",
    "event_timestamp": "2026-01-31T12:00:00Z",
}


@pytest.fixture
def sent(monkeypatch):
    """Every record that would go to a broker."""
    made = []

    def keep(_, lines, __):
        for line in lines:
            made.append(line)
        return 0

    monkeypatch.setattr("streaming.clients.producer", lambda _: None)
    monkeypatch.setattr("streaming.outbox.close_producer", lambda *_: None)
    monkeypatch.setattr(module, "_send_all", keep)
    return made


@pytest.mark.parametrize("name", ["-", "events.jsonl"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_byte_that_is_no_utf8_is_one_line_with_its_number(tmp_path, monkeypatch, sent, name, checked):
    good = json.dumps(ITEM).encode()
    held = good + b"\r\n\n" + b'{"a": "\xff"}\n'
    source = Path(name) if name == "-" else tmp_path / name
    (tmp_path / "events.jsonl").write_bytes(held)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(held), encoding="utf-8"))
    with pytest.raises(Poison, match="line 3: expected UTF-8, got byte 0xff at position 8") as refused:
        produce(Settings(home=tmp_path), source, checked=checked)
    assert "\n" not in str(refused.value)
    # Standard input, and a file that is not checked, goes out up to the line; a file that is checked, not at all.
    assert [line.value for line in sent] == ([] if checked and name != "-" else [good])


@pytest.mark.parametrize("event", [ITEM, BEHAVIOUR])
def test_another_topic_gets_events_of_either_kind_checked_by_their_fields(tmp_path, sent, event):
    source, settings = tmp_path / "events.jsonl", Settings(home=tmp_path)
    source.write_text(json.dumps(event) + "\n")
    assert produce(settings, source, topic="shadow") == 0
    assert [line.topic for line in sent] == ["shadow"]
    source.write_text(json.dumps({**event, "event_timestamp": 3}) + "\n")
    with pytest.raises(Poison, match="line 1: wrong_type: event_timestamp"):
        produce(settings, source, topic="shadow")


@pytest.mark.parametrize(("event", "topic"), [(ITEM, "behaviour-events"), (BEHAVIOUR, "item-events")])
def test_a_topic_of_ours_takes_only_its_own_kind(tmp_path, sent, event, topic):
    source = tmp_path / "events.jsonl"
    source.write_text(json.dumps(event) + "\n")
    with pytest.raises(Poison, match="line 1: missing_field"):
        produce(Settings(home=tmp_path), source, topic=topic)
    assert sent == []
