"""The documentation against the code it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from moontide import schemas
from moontide.settings import Settings

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"), *(ROOT / "lock").glob("*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_every_setting_is_documented_and_no_other():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert set(re.findall(r"^\| `MOONTIDE_(\w+)`", page, re.M)) == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", [n for n, value in vars(schemas).items() if isinstance(value, pa.Schema)])
def test_every_column_of_every_schema_is_documented(name):
    page = (ROOT / "docs" / "reference" / "schemas.md").read_text()
    documented = set(re.findall(r"`(\w+)`", page))
    assert set(getattr(schemas, name).names) <= documented


def test_every_reason_of_a_reject_is_documented():
    from encoders.item import Reason
    from jobs._rejects import RowReason

    page = (ROOT / "docs" / "reference" / "schemas.md").read_text()
    assert {str(reason) for reason in (*Reason, *RowReason)} <= set(re.findall(r"`(\w+)`", page))


def test_every_decision_is_in_the_index():
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", index)) == {p.name for p in (ROOT / "docs" / "adr").glob("0*.md")}


def test_the_glossary_has_the_words_the_readme_promises():
    text = (ROOT / "docs" / "concepts.md").read_text()
    for word in ("Embedding space", "Embedding", "Tier", "Behaviour", "Space switch", "Point in time", "Tombstone", "Dirty mark"):
        assert f"**{word}.**" in text
