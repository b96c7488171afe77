"""Word frequencies and the weights that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import Item
from encoders.terms import TermTable, WeightConfig
from encoders.tokenizer import Kind, Tokenizer, TokenizerConfig
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit
PLAIN = Tokenizer(TokenizerConfig())


def table(words: dict[str, float]) -> TermTable:
    return TermTable.build(PLAIN.fingerprints(list(words)), np.array(list(words.values())))


def weighted(words: dict[str, float], **weights: float) -> Tokenizer:
    return Tokenizer(TokenizerConfig(weights=WeightConfig(**weights)), table(words))


def words_of(tokenizer: Tokenizer, title: str) -> list[float]:
    tokens = tokenizer([Item("a", title=title)])
    assert tokens.weights is not None
    return tokens.weights[tokens.kinds == Kind.TITLE_WORD].tolist()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=6), st.floats(0.1, 8.0), max_size=30))
def test_look_up_gives_back_what_was_put_in(words: dict[str, float]) -> None:
    found = TermTable.from_bytes(table(words).to_bytes()).look_up(PLAIN.fingerprints(list(words)))
    np.testing.assert_allclose(found, list(words.values()), atol=0.021)


@pytest.mark.parametrize("size", [0, 1])
def test_small_tables_and_unknown_words(size: int) -> None:
    small = table({"red": 5.0} if size else {})
    assert small.look_up(PLAIN.fingerprints(["red", "zyxw"])).tolist() == pytest.approx([5.0 * size, 0.0])
    assert len(small.look_up(np.zeros(0, np.uint32))) == 0


@pytest.mark.parametrize("data", [b"", b"MTTERMS1abc", b"XXTERMS1", b"MTTERMS1" + b"\2\0\0\0\1\0\0\0" + b"\1\1"])
def test_damaged_tables_are_refused(data: bytes) -> None:
    with pytest.raises(Misconfigured, match="term table"):
        TermTable.from_bytes(data)


def test_weights_need_a_table() -> None:
    with pytest.raises(Misconfigured, match="term table"):
        Tokenizer(TokenizerConfig(weights=WeightConfig()))


def test_a_rare_word_says_more_than_a_common_one_and_an_unknown_one_most() -> None:
    common, rare, unknown = words_of(weighted({"with": 7.0, "teapot": 4.0}, fall=0.0), "with teapot qzxv")
    assert common < rare < unknown
    config = WeightConfig()
    assert rare / unknown == pytest.approx(((config.ceiling - 4.0) / config.ceiling) ** config.word_power, rel=1e-3)


def test_the_first_place_of_a_word_counts_and_a_word_said_twice_counts_once() -> None:
    tokenizer = weighted({}, fall=0.5, span=2.0)
    assert words_of(tokenizer, "aa bb cc dd") == pytest.approx(np.array([1.0, 0.75, 0.5, 0.5]) * words_of(tokenizer, "aa")[0])
    assert words_of(tokenizer, "aa bb aa") == pytest.approx(words_of(tokenizer, "aa bb"))


def test_words_with_digits_are_lifted_and_short_plain_numbers_are_common() -> None:
    tokenizer = weighted({}, fall=0.0)
    code, word, year, number = words_of(tokenizer, "x100 teapot 2007 9834712")
    assert code == pytest.approx(WeightConfig().number_boost * word, rel=1e-5)
    assert year < word < number


def test_bigrams_join_neighbours_of_one_text_only() -> None:
    tokenizer = weighted({})
    tokens = tokenizer([Item("a", title="red mug"), Item("b", title="mug"), Item("c")])
    bigrams = np.bincount(np.repeat(np.arange(3), tokens.lengths)[tokens.kinds == Kind.TITLE_BIGRAM], minlength=3)
    assert bigrams.tolist() == [1, 0, 0]
    spaced, dashed = (set(tokenizer([Item("a", title=t)]).ids.tolist()) for t in ("red   mug", "red-mug"))
    assert spaced == dashed


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=25) | st.none(), max_size=5))
def test_a_row_does_not_depend_on_its_batch(titles: list[str | None]) -> None:
    tokenizer = weighted({"a": 7.0, "red": 5.0})
    items = [Item("a", title=title, attributes=title) for title in titles]
    together = tokenizer(items)
    assert together.weights is not None and len(together.weights) == len(together.ids)
    for row, item in enumerate(items):
        alone, one = tokenizer([item]), together.take(np.array([row]))
        assert alone.ids.tolist() == one.ids.tolist()
        assert alone.weights is not None and one.weights is not None
        np.testing.assert_array_equal(alone.weights, one.weights)


def test_padding_weighs_nothing() -> None:
    tokens = weighted({})([Item("a", title="red enamel mug"), Item("b", title="mug")])
    inputs = tokens.inputs(np.arange(2))
    assert set(inputs) == {"ids", "kinds", "weights"}
    assert (inputs["weights"][inputs["kinds"] == Kind.PAD] == 0).all()
    assert set(PLAIN([Item("a", title="red")]).inputs(np.arange(1))) == {"ids", "kinds"}
