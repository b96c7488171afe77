"""The report: one file, nothing loaded, hostile texts harmless, and never a page that breaks on odd data."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from encoders.evaluate import main
from encoders.evaluation import page
from encoders.evaluation.measured import MeasuredData, MeasuredTask, measure
from encoders.evaluation.measures import Figure
from encoders.evaluation.neighbours import answers, choose, ranks
from encoders.evaluation.pictures import Pictures
from encoders.evaluation.report import Subject, render, write_report
from encoders.evaluation.tasks import Listed, SameKey, Task, Truth
from encoders.evaluation.tasks_build import Built, build_folder
from encoders.evaluation.untrained import with_untrained
from encoders.evaluation.vectors import ByCodes, Vectors
from encoders.item import Item

pytestmark = pytest.mark.unit
HOSTILE = [
    '</style><script>alert("x")</script>',
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "a\x00b\u202ec\x1b[31m",
    "'" * 300,
]
VOID = {"meta", "img", "rect", "line"}


class Checker(HTMLParser):
    """Fails on tags out of balance, on scripts, and on anything that would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in {"src", "href"}:
                assert value.startswith("data:image/jpeg;base64,")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


class Fixed:
    """A method with given scores."""

    name, reads = "fixed", frozenset({"image", "text"})

    def __init__(self, scores):
        self.table = np.array(scores, np.float32)

    def scores(self, task):
        rows = [int(item.item_id) for item in task.queries]
        return lambda start, stop: self.table[rows[start:stop]]


def ask(relevant, width, excluded=()):
    items = tuple(Item(str(at), title=f"title {at}") for at in range(len(relevant)))
    gallery = tuple(Item(str(at), title=f"answer {at}") for at in range(width))
    columns = tuple(np.array(row, np.int64) for row in relevant)
    return Task("t/t", Path("."), items, gallery, Truth(Listed(columns, width), excluded, np.arange(len(relevant))))


def test_ranks_count_ties_against_the_method_and_leave_out_what_is_excluded():
    method = Fixed([[0.9, 0.5, 0.5, 0.1]] * 3)
    own = SameKey(np.array([0, -1, -1]), np.array([0, 1, 2, 3]))
    assert ranks(ask([[2], [2], []], 4, (own,)), method).tolist() == [2, 3, 0]
    (answer,) = answers(ask([[2], [2], []], 4, (own,)), method, [0])
    assert [hit.item.item_id for hit in answer.hits] == ["1", "2", "3"]
    assert [hit.right for hit in answer.hits] == [False, True, False] and answer.best_right == 2


def test_cases_are_drawn_by_seed_and_the_worst_are_the_last():
    width = 40
    scores = np.tile(-np.arange(width, dtype=np.float32), (12, 1))
    task = ask([[row * 3] for row in range(12)], width)
    chosen = choose(task, Fixed(scores), seed=3)
    assert [answer.best_right for answer in chosen.worst] == [34, 31]
    assert len(chosen.found) == 2 and all(answer.best_right <= 8 for answer in chosen.found)
    assert len(chosen.missed) == 2 and all(8 < answer.best_right < 31 for answer in chosen.missed)
    assert choose(task, Fixed(scores), seed=3) == chosen
    assert any(choose(task, Fixed(scores), seed=seed).found != chosen.found for seed in range(5))


def test_no_query_one_item_and_no_right_answer():
    for relevant, width in (([], 3), ([], 0), ([[]], 1), ([[0]], 1), ([[], []], 2)):
        chosen = choose(ask(relevant, width), Fixed(np.zeros((2, width))), seed=0)
        assert len(chosen.missed) == len(chosen.worst) == 0
        assert len(chosen.found) == (relevant == [[0]])


@pytest.mark.parametrize("words", HOSTILE)
def test_pieces_escape_every_text(words):
    bar = page.Bar(words, 0.5, float("nan"), 0.6, own=True)
    parts = [page.figure(words, image=b"jpeg", badge=words, caption=words), page.figure(words), page.bars([bar]), page.paragraph(words),
             page.table([words, words], [[(words, words), (words, "")]]), page.heading(words)]  # fmt: skip
    whole = page.page(words, words, [page.section(words, *parts)])
    Checker(whole)
    assert words not in whole and "\x1b" not in whole and "\u202e" not in whole and "\x00" not in whole


def test_plots_of_nothing_and_of_odd_numbers():
    for heights in (np.zeros(0), np.zeros(3), np.array([1e-9]), np.array([-1.0, 2.0])):
        svg = page.columns(heights, ("a", "b", "c"))
        assert "nan" not in svg and 'height="-' not in svg
    Checker(page.bars([]))
    assert 'width="0.0"' in page.bars([page.Bar("x", -0.2, -1.0, 0.0, own=False)])


def test_the_budget_of_pictures_is_kept(make_image):
    pictures = Pictures(budget=6000)
    given = [pictures.of(Item("a", image=make_image(seed)), Path(".")) for seed in range(20)]
    assert given[0] is not None and given[-1] is None
    assert sum(len(data) for data in given if data) <= 6000
    assert Pictures().of(Item("a", title="x"), Path(".")) is None
    assert Pictures().of(Item("a", image=b"broken"), Path(".")) is None


@pytest.fixture
def shop(tmp_path, make_image):
    """Four products of two photos, with titles that want to be HTML."""
    folder = tmp_path / "shop & sons"
    (folder / "images").mkdir(parents=True)
    lines = ["item_id,parent_sku,title,description,images"]
    for at in range(4):
        names = [f"images/{at}{letter}.jpg" for letter in "ab"]
        for turn, name in enumerate(names):
            (folder / name).write_bytes(make_image(10 * at + turn))
        title = HOSTILE[at].replace('"', '""').replace("\x00", "")
        lines.append(f'i{at},p{at},"{title} word{at}","<b>description {at}</b>",{";".join(names)}')
    (folder / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_whole_report_of_a_hostile_shop(encoder, shop, tmp_path):
    vectors = Vectors(encoder)
    own = ByCodes("<own>", vectors)
    built = build_folder(shop, split="all")
    kept = [task for task in built.tasks if task.name.endswith(("image_to_product", "text_to_image", "title_damaged"))]
    found = measure(replace(built, tasks=tuple(kept)), vectors, [own], say=lambda _: None)
    assert len(found.tasks) >= 2
    path = write_report(tmp_path / "new" / "out", [found], Subject(vectors, (own.name,)))
    text = path.read_text("utf-8")
    checked = Checker(text)
    assert path.name == "report.html" and len(text) < 5_000_000
    assert checked.seen.count("img") > 8 and "alert(&quot;x&quot;)" in text and "shop &amp; sons" in text
    assert not re.search(r"https?://(?!www\.w3\.org)", re.sub(r"http://evil\.example", "", text))
    assert "where the vector comes from" in text and "&lt;own&gt;" in text
    assert render([found], Subject(vectors, (own.name,))) == text


def test_the_command_writes_it(artifact_path, shop, tmp_path, capsys):
    asked = [str(artifact_path), "--data", str(shop), "--split", "all", "--queries", "2", "--report", str(tmp_path / "out")]
    assert main([*asked, "--baselines", "chance,histogram,bm25", "--threads", "1"]) == 0
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    Checker(text)
    assert "BM25" in text and "colour histogram" in text and "<td>–</td>" in text
    assert "report.html" in capsys.readouterr().err


def test_data_without_a_task_or_without_an_item(encoder):
    built = Built("empty", "all", (), Path("."), (), {"image_missing": 3}, {})
    text = render([MeasuredData(built, (), {}, {})], Subject(Vectors(encoder), ("own",)))
    Checker(text)
    assert "Nothing to measure" in text and "image_missing 3" in text
    Checker(render([], Subject(Vectors(encoder), ())))


def test_the_untrained_copy_of_the_manifest_is_a_column_where_it_was_asked_the_same(encoder):
    figures = {"recall_at_1": {"own": Figure(0.5, 0.4, 0.6)}, "recall_at_10": {"own": Figure(0.9, 0.8, 1.0)}}
    built = Built("x", "test", (), Path("."), (), {}, {})
    found = MeasuredData(built, (MeasuredTask("x/t", 7, 9, figures, {}),), {}, {})

    def column(metrics):
        (task,) = with_untrained(found, metrics).tasks
        return {measure: by["untrained"].value for measure, by in task.figures.items() if "untrained" in by}

    assert column({"test": {"untrained": {"x/t": {"queries": 7.0, "recall_at_1": 0.25}}}}) == {"recall_at_1": 0.25}
    for other in ({"queries": 6.0, "recall_at_1": 0.25}, {"recall_at_1": 0.25}, {"queries": 7.0, "recall_at_1": "0.25"}, 3, None):
        assert column({"test": {"untrained": {"x/t": other}}}) == {}
    for odd in ({}, {"val": {}}, {"test": 1}, {"test": {"untrained": []}}):
        assert column(odd) == {}
    shown = render([with_untrained(found, {"test": {"untrained": {"x/t": {"queries": 7, "recall_at_1": 0.25}}}})],
                   Subject(Vectors(encoder), ("own", "untrained")))  # fmt: skip
    assert "25.0<small>interval not known</small>" in shown


def test_a_method_that_cannot_answer_is_a_dash_and_the_best_is_marked(encoder):
    unknown = float("nan")
    figures = {"recall_at_10": {"own": Figure(0.5, unknown, unknown), "bm25": Figure(0.75, 0.7, 0.8)}}
    task = ask([[0]], 1)
    built = Built("x", "all", (task,), Path("."), (), {}, {})
    found = MeasuredData(built, (MeasuredTask("x/t", 1, 1, figures, {"recall_at_10": -0.5}),), {}, {})
    text = render([found], Subject(Vectors(encoder), ("own", "bm25", "histogram")))
    Checker(text)
    assert "<td>75.0 ●<small>70.0–80.0</small></td><td>–</td>" in text
    assert "50.0<small>interval not known</small>" in text and "-0.50" in text
