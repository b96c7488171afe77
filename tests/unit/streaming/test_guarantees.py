"""The page of guarantees against the flow it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moontide import names
from moontide.settings import Settings
from streaming.message import Point, Verdict

pytestmark = pytest.mark.unit
DOCS = Path(__file__).parents[3] / "docs"
GUARANTEES = (DOCS / "guarantees.md").read_text(encoding="utf-8")
GUIDE = (DOCS / "guides" / "streaming.md").read_text(encoding="utf-8")


def test_every_point_of_the_flow_says_what_a_replay_does():
    rows = re.findall(r"^\| `(\w+)` \|", GUARANTEES, re.M)
    assert set(rows) == {point.value for point in Point}
    assert len(rows) == len(set(rows))


def test_every_verdict_is_explained():
    for verdict in Verdict:
        assert f"`{verdict.value}`" in GUARANTEES


def test_every_topic_is_in_the_guide():
    for topic in (names.TOPIC_ITEM_EVENTS, names.TOPIC_BEHAVIOUR_EVENTS, names.TOPIC_ITEM_EMBEDDINGS, names.TOPIC_DEAD_LETTERS):
        assert re.search(rf"^\| `{topic}` \|", GUIDE, re.M)


@pytest.mark.parametrize("text", [GUARANTEES, GUIDE], ids=["guarantees", "guide"])
def test_settings_that_are_named_exist(text):
    known = {name.upper() for name in Settings.model_fields}
    named = {name for name in re.findall(r"MOONTIDE_(\w+)", text) if not name.endswith("_")}
    assert named <= known
