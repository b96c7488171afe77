"""Texts enriched from attributes (MOON2.0's co-augmentation of texts), with a face for a generative model. No torch.

MOON2.0 lets a multimodal language model rewrite the text of an item. Without one, `compose` puts together what the catalog
knows, and it is what a model's text is checked against and replaced by.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from encoders.item import Item, canonical_text
from moontide.errors import Misconfigured

MAX_CHARS: Final = 2_000
_EDGES: Final = ";:,.!?|/\\()[]{}<>\"'`*_~=+-"


@dataclass(frozen=True, slots=True)
class Described:
    """An item and the words of its category, which is no part of an item's content; empty: unknown."""

    item: Item
    category: str = ""


class TextEnricher(Protocol):
    """Writes richer texts of items, e.g. a language model."""

    def enrich(self, items: Sequence[Described]) -> Sequence[str]:
        """One text an item, in their order.

        Raises:
            Transient: the model did not answer; the caller tries again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Enriched:
    """Texts of N items, empty for an item without words, and how many of a model's texts were not used, by reason.

    Reasons: ``not_text``, ``empty``, ``too_long``, ``unrelated`` (shares no word with what the catalog says).
    """

    texts: tuple[str, ...]
    replaced: Mapping[str, int]


class Composer:
    """The `TextEnricher` without a model: title, attribute values, category words."""

    def enrich(self, items: Sequence[Described]) -> list[str]:
        """As `TextEnricher`; never fails."""
        return [compose(each.item, each.category) for each in items]


def compose(item: Item, category: str = "") -> str:
    """Title, then attribute values, then category words, each word once: where it came first, and as it was written there.

    Two words are the same if they differ in case or outer punctuation only. At most `MAX_CHARS` characters, cut between words
    unless the first one is longer.
    """
    seen: set[str] = set()
    words: list[str] = []
    length = 0
    for text in (item.title, item.attributes, category):
        for word, key in _words(text):
            if key in seen:
                continue
            seen.add(key)
            if length + len(word) + bool(words) > MAX_CHARS:
                return " ".join(words) or word[:MAX_CHARS]
            length += len(word) + bool(words)
            words.append(word)
    return " ".join(words)


def enrich(items: Sequence[Described], enricher: TextEnricher) -> Enriched:
    """A model's texts as far as they can be trusted, the composed ones else.

    Raises:
        Misconfigured: not one text an item.
    """
    written = enricher.enrich(items) if items else []
    if len(written) != len(items):
        raise Misconfigured(f"text enricher: expected {len(items)} texts, one an item, got {len(written)}; correct the enricher")
    replaced: Counter[str] = Counter()
    texts = []
    for each, text in zip(items, written, strict=True):
        plain = compose(each.item, each.category)
        fault = _fault(text, plain)
        if fault and (plain or fault != "empty"):
            replaced[fault] += 1
        texts.append(plain if fault else _clean(text))
    return Enriched(tuple(texts), dict(replaced))


def _fault(text: object, plain: str) -> str | None:
    if not isinstance(text, str):
        return "not_text"
    # Before it is looked into: cleaning a gigabyte takes minutes.
    if len(text) > MAX_CHARS:
        return "too_long"
    keys = {key for _, key in _words(text)}
    if not keys:
        return "empty"
    return None if keys & {key for _, key in _words(plain)} else "unrelated"


def _clean(text: str) -> str:
    """NFC, one space between words, without control characters and lone surrogates."""
    kept = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in canonical_text(text))
    return " ".join(kept.split())


def _words(text: str | None) -> Iterator[tuple[str, str]]:
    """Words without the punctuation of lists, and what they are compared by."""
    for word in _clean(text or "").replace(";", " ").split():
        bare = word.strip(_EDGES)
        if bare:
            yield word.rstrip(";,:"), bare.casefold()
