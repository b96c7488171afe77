"""The tokenizer against a readable reference that hashes one feature at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import Item
from encoders.tokenizer import Kind, Tokenizer, TokenizerConfig, normalise

pytestmark = pytest.mark.unit

CONFIG = TokenizerConfig(grams=(3, 4))


def _features(item: Item, tokenizer: Tokenizer) -> set[tuple[int, int]]:
    tokens = tokenizer([item])
    return set(zip(tokens.kinds.tolist(), tokens.ids.tolist(), strict=True))


def test_counts_of_a_title() -> None:
    tokens = Tokenizer(CONFIG)([Item("a", title="Red-Mug, 2l")])
    counts = np.bincount(tokens.kinds, minlength=len(Kind))
    # Words: red mug 2l. Grams of " red ", " mug " and " 2l ": 3 + 3 + 2 of length 3, 2 + 2 + 1 of length 4.
    assert counts[Kind.TITLE_WORD] == 3
    assert counts[Kind.TITLE_GRAM] == 13


def test_fields_share_words_but_not_kinds() -> None:
    tokenizer = Tokenizer(CONFIG)
    title = _features(Item("a", title="red"), tokenizer)
    attributes = _features(Item("a", attributes="red"), tokenizer)
    description = _features(Item("a", description="red"), tokenizer)
    assert {feature for _, feature in title} == {feature for _, feature in attributes}
    assert {kind for kind, _ in attributes} == {Kind.ATTRIBUTE_WORD, Kind.ATTRIBUTE_GRAM}
    assert [kind for kind, _ in description] == [Kind.DESCRIPTION_WORD]


def test_case_accents_and_punctuation_do_not_matter() -> None:
    tokenizer = Tokenizer(CONFIG)
    base = _features(Item("a", title="cafe creme 12"), tokenizer)
    for other in ("CAFÉ  CRÈME 12", "café/crème (12)", "ｃａｆｅ creme 12"):
        assert _features(Item("a", title=other), tokenizer) == base, other


def test_known_buckets() -> None:
    """Buckets are part of every artifact: a change of hash needs a new format version."""
    tokens = Tokenizer(TokenizerConfig(grams=(3,)))([Item("a", title="red mug")])
    assert tokens.ids.tolist() == [11276, 19827, 19481, 26221, 15875, 19444, 17164, 13306]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=30) | st.none(), max_size=6))
def test_a_row_does_not_depend_on_its_batch(titles: list[str | None]) -> None:
    tokenizer = Tokenizer(CONFIG)
    items = [Item("a", title=title, description=title, attributes="red") for title in titles]
    together = tokenizer(items)
    for row, item in enumerate(items):
        alone = tokenizer([item])
        one = together.take(np.array([row]))
        assert one.ids.tolist() == alone.ids.tolist()
        assert one.kinds.tolist() == alone.kinds.tolist()


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=40))
def test_word_counts_match_a_plain_reference(title: str) -> None:
    def is_word(char: str) -> bool:
        code = ord(char)
        ascii_word = char.isascii() and char.isalnum()
        return ascii_word or (code >= 0xC0 and not 0x2000 <= code < 0x2C00 and not 0x3000 <= code < 0x3040)

    plain = normalise(title, CONFIG.title_chars)
    words = [word for word in "".join(char if is_word(char) else " " for char in plain).split(" ") if word]
    counts = np.bincount(Tokenizer(CONFIG)([Item("a", title=title)]).kinds, minlength=len(Kind))
    assert counts[Kind.TITLE_WORD] == len(words)
    assert counts[Kind.TITLE_GRAM] == sum(max(0, len(word) + 2 - size + 1) for word in words for size in CONFIG.grams)


def test_padding_restores_rows() -> None:
    tokens = Tokenizer(CONFIG)([Item("a", title="one two three"), Item("b"), Item("c", title="x")])
    ids, kinds = tokens.padded(np.array([2, 0]))
    assert ids.shape == kinds.shape
    assert (kinds > 0).sum(axis=1).tolist() == tokens.lengths[[2, 0]].tolist()
    assert tokens.padded(np.zeros(0, np.int64))[0].shape == (0, 1)


def test_fields_are_cut() -> None:
    tokenizer = Tokenizer(replace(CONFIG, title_chars=7))
    assert _features(Item("a", title="red mug and more"), tokenizer) == _features(Item("a", title="red mug"), tokenizer)
