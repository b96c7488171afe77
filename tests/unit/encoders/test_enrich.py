"""Enriched texts: composed in order and without repetition; a model's text is used only where it can be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.enrich import MAX_CHARS, Composer, Described, compose, enrich
from encoders.item import Item
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

MUG = Described(Item("1", "Red MUG, 300 ml", None, "red; ceramic; Mug; hand-made"), "Kitchen / Mugs")


class _Writes:
    def __init__(self, *texts: object) -> None:
        self.texts = texts

    def enrich(self, items: object) -> list[str]:
        return list(self.texts)  # type: ignore[arg-type]


def test_title_then_attributes_then_category_each_word_once() -> None:
    assert compose(MUG.item, MUG.category) == "Red MUG 300 ml ceramic hand-made Kitchen Mugs"
    assert compose(Item("1"), "") == "" and compose(Item("1", attributes="wool"), "") == "wool"
    assert compose(Item("1", "; , -"), " / ") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x00b\nc\ud800d", "a b c d"),
        ("cafe\u0301 CAF\u00c9", "caf\u00e9"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\u202eabc \u0645\u06cc\u200c\u062e", "\u202eabc \u0645\u06cc\u200c\u062e"),
        ("x" * 9_999, "x" * MAX_CHARS),
    ],
)
def test_hostile_texts_stay_text(text: str, expected: str) -> None:
    assert compose(Item("1", text)) == expected


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_is_composed_the_same_twice(title: str, attributes: str, category: str) -> None:
    text = compose(Item("1", title, None, attributes), category)
    assert len(text) <= MAX_CHARS and text == " ".join(text.split())
    assert compose(Item("1", text)) == text
    text.encode("utf-8")


@given(st.lists(st.sampled_from(["red", "Red", "RED,", "mug", "mug;", "(mug)", "blue"]), max_size=12))
def test_no_word_twice(words: list[str]) -> None:
    got = [word.strip("(),;").casefold() for word in compose(Item("1", " ".join(words))).split()]
    assert len(got) == len(set(got)) and set(got) == {word.strip("(),;").casefold() for word in words}


def test_a_long_text_is_cut_between_words() -> None:
    text = compose(Item("1", " ".join(f"word{n}" for n in range(1_000))))
    assert MAX_CHARS - 10 < len(text) <= MAX_CHARS and text.split()[-1] == f"word{len(text.split()) - 1}"


def test_a_trusted_text_is_used_and_another_is_replaced_and_counted() -> None:
    plain = compose(MUG.item, MUG.category)
    writer = _Writes("A  lovely\nred cup", "", " ;\t", "buy now, cheap", "red " * MAX_CHARS, None)
    got = enrich([MUG] * 6, writer)
    assert got.texts == ("A lovely red cup", *[plain] * 5)
    assert got.replaced == {"empty": 2, "unrelated": 1, "too_long": 1, "not_text": 1}


def test_an_item_without_words_gets_none() -> None:
    bare = Described(Item("1", image="a.jpg"))
    assert enrich([bare], _Writes("a red mug")).texts == ("",)
    assert enrich([bare], Composer()) == enrich([bare], _Writes(""))
    assert enrich([bare], Composer()).replaced == {}


def test_the_composer_needs_no_check_and_nothing_is_nothing() -> None:
    got = enrich([MUG, MUG], Composer())
    assert got.texts == (compose(MUG.item, MUG.category),) * 2 and got.replaced == {}
    assert enrich([], _Writes("unasked")).texts == ()
    with pytest.raises(Misconfigured, match="expected 2 texts"):
        enrich([MUG, MUG], _Writes("red"))
