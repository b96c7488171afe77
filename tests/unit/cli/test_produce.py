"""Lines of an event file, and a file that is refused before anything is sent."""

import json

import pytest

from moontide.__main__ import main
from moontide.cli.produce import Line, read_line
from moontide.errors import Poison

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
