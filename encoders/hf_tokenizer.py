"""The text front end of artifacts made from pretrained models: sub-word ids by the `tokenizers` library, without torch.

B texts. The library is imported by the first such artifact that is loaded, never before.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from encoders.item import Item, canonical_text
from encoders.tokenizer import Tokens
from moontide.errors import Misconfigured

VOCABULARY_MAX_BYTES: Final = 20 * 1024 * 1024
# Few languages have longer words, and a text of a hundred million characters must not reach the library.
_CHARS_PER_TOKEN: Final = 64
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_TOKEN: Final = 1  # any kind but 0, which is padding


@dataclass(frozen=True, slots=True)
class HuggingFaceTokenizerConfig:
    """What `tokenizer.json` holds for a pretrained model, beside its `kind`; the vocabulary is a file of its own.

    Args:
        max_length: tokens of a text, the special ones among them; the rest is cut off.
        prefix: goes before every text, e.g. ``"passage: "``, where the model was trained so.
        separator: between title, attributes and description.
        lowercase, drop_punctuation: applied before the vocabulary's own rules; punctuation is that of ASCII.
    """

    max_length: int = 256
    prefix: str = ""
    separator: str = ". "
    lowercase: bool = False
    drop_punctuation: bool = False

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise Misconfigured(f"tokenizer: expected a max_length of 3 or more, got {self.max_length}; export it again")


class HuggingFaceTokenizer:
    """Turns items into `Tokens` whose kinds are all 1. Thread-safe.

    Special tokens that stand in an item's text are read as plain text: a title cannot end itself early.
    """

    def __init__(self, config: HuggingFaceTokenizerConfig, vocabulary: bytes) -> None:
        """`vocabulary` is the JSON of the `tokenizers` library; its own truncation and padding are replaced.

        Raises:
            Misconfigured: the library is not installed, or the file is too large or not one of its own.
        """
        self.config = config
        self._library = _read_vocabulary(vocabulary)
        self._library.no_padding()
        self._library.enable_truncation(config.max_length)
        self._library.encode_special_tokens = True
        self._specials = self._library.num_special_tokens_to_add(False)
        if self._specials >= config.max_length:
            raise Misconfigured(
                f"tokenizer: expected a max_length above its {self._specials} special tokens, got {config.max_length}; "
                "export it again"
            )

    def __call__(self, items: Sequence[Item]) -> Tokens:
        """Title, attributes and description of each item as one text, in order; an item without any has no tokens."""
        texts = [self._text(item) for item in items]
        rows = np.array([row for row, text in enumerate(texts) if text], np.int64)
        encodings = self._library.encode_batch([texts[row] for row in rows])
        # What holds special tokens only was made of characters that the vocabulary drops.
        found = [encoding.ids if len(encoding.ids) > self._specials else [] for encoding in encodings]
        lengths = np.zeros(len(items), np.int64)
        lengths[rows] = [len(ids) for ids in found]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        ids = np.fromiter((token for row in found for token in row), np.int32, int(offsets[-1]))
        return Tokens(ids, np.full(len(ids), _TOKEN, np.uint8), offsets)

    def _text(self, item: Item) -> str:
        fields = (canonical_text(field) for field in (item.title, item.attributes, item.description))
        text = self.config.separator.join(field for field in fields if field)
        if not text:
            return ""
        text = (self.config.prefix + text)[: self.config.max_length * _CHARS_PER_TOKEN]
        # The library refuses half a surrogate pair.
        text = text.encode("utf-8", "replace").decode("utf-8")
        text = text.lower() if self.config.lowercase else text
        return " ".join(text.translate(_PUNCTUATION).split()) if self.config.drop_punctuation else text


def build_tokenizer(config: HuggingFaceTokenizerConfig, vocabulary: bytes | None) -> HuggingFaceTokenizer:
    """The tokenizer of an artifact, from its `tokenizer.json` and its vocabulary.

    Raises:
        Misconfigured: no vocabulary, or what `HuggingFaceTokenizer` raises.
    """
    if vocabulary is None:
        raise Misconfigured("tokenizer: expected the vocabulary of a pretrained model, got none; copy the whole artifact again")
    return HuggingFaceTokenizer(config, vocabulary)


def _read_vocabulary(data: bytes) -> Any:
    if len(data) > VOCABULARY_MAX_BYTES:
        raise Misconfigured(f"vocabulary: expected at most {VOCABULARY_MAX_BYTES} bytes, got {len(data)}; use another model")
    try:
        import tokenizers  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured("vocabulary: expected the package 'tokenizers', got none; install moontide[huggingface]") from error
    try:
        return tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # noqa: BLE001 - the library raises the bare class, and nothing below it
        raise Misconfigured(
            f"vocabulary: expected JSON of the tokenizers library, got {str(error)[:200]}; export it again"
        ) from error
