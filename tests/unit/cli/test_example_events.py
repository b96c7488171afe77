"""The example file of events: valid but for the record that is to be refused, and made by the script beside it."""

import importlib.util
import json
from pathlib import Path

import pytest

from moontide.cli.produce import read_line
from moontide.events import BadEvent, EventReason, parse_behaviour, parse_item
from moontide.stores.kv import wall_clock

pytestmark = pytest.mark.unit
EXAMPLES = Path(__file__).parents[3] / "examples"
LINES = [read_line(text) for text in (EXAMPLES / "events.jsonl").read_text().splitlines()]


def test_it_holds_every_kind_of_record_and_one_poison():
    items, behaviours, refused = [], [], []
    for line in LINES:
        try:
            if line.topic == "behaviour-events":
                behaviours.append(parse_behaviour(line.key, line.value, now_us=wall_clock()))
            else:
                items.append(parse_item(line.key, line.value, line.headers, 0, now_us=wall_clock()))
        except BadEvent as error:
            refused.append(error.reason)
    assert refused == [EventReason.NOT_JSON]
    assert {event.deleted for event in items} == {False, True}
    assert sum(event.event_id == "" for event in items) == 1
    assert any(event.content and event.content.image for event in items)
    assert {event.action for event in behaviours} == {"purchase", "impression"} and len(behaviours) >= 300
    assert len({event.event_id for event in behaviours}) == len(behaviours)
    assert (EXAMPLES / "events.jsonl").stat().st_size < 300_000


def test_the_script_makes_it(tmp_path):
    spec = importlib.util.spec_from_file_location("build_events", EXAMPLES / "build_events.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--out", str(tmp_path / "events.jsonl")]) == 0
    made = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in made] == [
        json.loads(line) for line in (EXAMPLES / "events.jsonl").read_text().splitlines()
    ]
