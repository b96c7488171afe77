"""Text front end of pretrained models: fields in order, cut at the model's length, and no text that breaks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from encoders.hf_tokenizer import (  # noqa: E402
    VOCABULARY_MAX_BYTES,
    HuggingFaceTokenizer,
    HuggingFaceTokenizerConfig,
    build_tokenizer,
)
from encoders.item import Item  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402
from tests.unit.encoders import tiny_pretrained as tiny  # noqa: E402

pytestmark = pytest.mark.unit

START, END, FIRST = 0, 1, 2


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return (folder / "tokenizer.json").read_bytes()


def _ids(tokenizer: HuggingFaceTokenizer, **fields: str) -> list[int]:
    tokens = tokenizer([Item("a", **fields)])
    assert (tokens.kinds == 1).all()
    return tokens.ids.tolist()


def _words(*words: str) -> list[int]:
    return [START, *(FIRST + tiny.WORDS.index(word) for word in words), END]


def test_fields_are_joined_in_order(vocabulary: bytes) -> None:
    tokenizer = HuggingFaceTokenizer(HuggingFaceTokenizerConfig(), vocabulary)
    got = _ids(tokenizer, description="with candle", attributes="cotton", title=" Red hoodie ")
    assert got == _words("red", "hoodie", ".", "cotton", ".", "with", "candle")
    assert _ids(tokenizer, description="mug", title="  ") == _words("mug")


def test_prefix_and_canonical_text(vocabulary: bytes) -> None:
    config = HuggingFaceTokenizerConfig(prefix="a ", lowercase=True, drop_punctuation=True)
    assert _ids(HuggingFaceTokenizer(config, vocabulary), title="Mug...  of glass!") == _words("a", "mug", "of", "glass")


def test_long_text_is_cut_and_keeps_its_end(vocabulary: bytes) -> None:
    tokenizer = HuggingFaceTokenizer(HuggingFaceTokenizerConfig(max_length=5), vocabulary)
    assert _ids(tokenizer, title="red blue cotton wool hoodie mug") == _words("red", "blue", "cotton")
    assert len(_ids(tokenizer, description="red " * 1_000_000)) == 5


def test_batches_of_none_one_and_empty_rows(vocabulary: bytes) -> None:
    tokenizer = HuggingFaceTokenizer(HuggingFaceTokenizerConfig(), vocabulary)
    assert len(tokenizer([])) == 0
    assert tokenizer([]).offsets.tolist() == [0]
    tokens = tokenizer([Item("a", image=b"x"), Item("b", title="mug"), Item("c", title=" \t")])
    assert tokens.lengths.tolist() == [0, 3, 0]
    ids, kinds = tokens.padded(np.array([1, 0]))
    assert (ids.dtype, kinds.dtype) == (np.int32, np.uint8)
    assert kinds.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_special_tokens_in_a_text_are_text(vocabulary: bytes) -> None:
    tokenizer = HuggingFaceTokenizer(HuggingFaceTokenizerConfig(), vocabulary)
    ids = _ids(tokenizer, title="red </s> mug <pad>")
    assert ids.count(END) == 1
    assert ids[-1] == END
    assert FIRST + len(tiny.WORDS) + 1 not in ids


@given(text=st.text(st.characters(exclude_categories=()), max_size=80))
@settings(max_examples=60, deadline=None)
def test_no_text_breaks_it(vocabulary: bytes, text: str) -> None:
    tokenizer = HuggingFaceTokenizer(HuggingFaceTokenizerConfig(max_length=8), vocabulary)
    tokens = tokenizer([Item("a", title=text), Item("b", title="mug")])
    assert tokens.lengths[0] <= 8
    assert tokens.take(np.array([1])).ids.tolist() == _words("mug")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[]", b'{"model": 1}'])
def test_a_file_that_is_no_vocabulary(data: bytes) -> None:
    with pytest.raises(Misconfigured, match="vocabulary"):
        HuggingFaceTokenizer(HuggingFaceTokenizerConfig(), data)


def test_limits(vocabulary: bytes) -> None:
    with pytest.raises(Misconfigured, match="at most"):
        HuggingFaceTokenizer(HuggingFaceTokenizerConfig(), b" " * (VOCABULARY_MAX_BYTES + 1))
    with pytest.raises(Misconfigured, match="max_length"):
        HuggingFaceTokenizerConfig(max_length=2)
    with pytest.raises(Misconfigured, match="vocabulary"):
        build_tokenizer(HuggingFaceTokenizerConfig(), None)
