import re
from html.parser import HTMLParser

import pytest

from moontide.cli.report import Candidate, Card, Neighbours, Report, render, tier_plot

pytestmark = pytest.mark.unit
VOID = {"meta", "img", "line", "rect", "br"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open; `images` and `texts` are what a reader gets."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.images, self.texts, self.scripts = [], [], [], 0
        self.feed(page)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page(**parts):
    return render(Report(headline=[("4,782", "items")], rows=[("items", "4,782", "all")], **parts))


def test_an_empty_report_is_a_page():
    assert "4,782" in Balanced(page()).texts


def test_everything_is_inside_the_file():
    photo = Card("lu:1", "Hoodie", "", b"\xff\xd8jpeg")
    text = page(similar=[("Photos", [Neighbours(photo, [(photo, 0.5)])])])
    assert all(src.startswith("data:image/jpeg;base64,") for src in Balanced(text).images)
    assert len(Balanced(text).images) == 2
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "url(" not in text


def test_text_of_the_catalog_cannot_become_markup():
    nasty = '<script>alert("1")</script> & \'"'
    card = Card(nasty, nasty, nasty)
    text = page(
        similar=[(nasty, [Neighbours(card, [(card, 1.0)])])],
        user_id=nasty,
        history=[(nasty, nasty)],
        candidates=[Candidate(card, nasty, [1, 2], 0)],
        identity=[(nasty, nasty)],
        checks=[(nasty, nasty)],
    )
    parsed = Balanced(text)
    assert parsed.scripts == 0
    assert nasty in parsed.texts


@pytest.mark.parametrize("counts", [[], [0] * 20, [0, 1, 0, 7], list(range(20))])
def test_a_bar_per_tier_with_its_count_on_top(counts):
    drawn = tier_plot(counts)
    Balanced(drawn)
    assert drawn.count("<rect") == len(counts)
    assert re.findall(r">(\d+)</text></g>", drawn) == [str(c) for c in counts if c]


def test_bars_stay_inside_the_plot_and_keep_the_proportion():
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"', tier_plot([1, 2, 4, 0]))]
    assert heights[2] == max(heights)
    assert heights[1] == pytest.approx(heights[2] / 2, abs=0.06)
    assert heights[3] == 0
    tops = [float(y) for y in re.findall(r'<rect x="[\d.]+" y="([\d.]+)"', tier_plot([10_000, 1]))]
    assert min(tops) >= 10


def test_tiers_above_zero_are_drawn_as_like():
    assert re.findall(r'<g class="(\w+)">', tier_plot([1, 1, 1, 1])) == ["unlike", "unlike", "like", "like"]


def test_a_long_history_is_cut_with_a_count():
    text = page(history=[("2011-01-01", f"t{n}") for n in range(50)])
    assert "t23<" in text
    assert "t24<" not in text
    assert "and 26 earlier" in text
