"""Texts as a stage draws them: forms of an item's text, and batches of tokens. B texts, L features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from encoders.enrich import Composer, Described, TextEnricher, enrich
from encoders.item import Item
from encoders.tokenizer import Tokenizer
from encoders.wording import vary_title

PartT = TypeVar("PartT")
_CODE: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Padded tokens: ids and kinds (B, L) int64, weights (B, L) float32."""

    ids: Tensor
    kinds: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def moved(part: PartT, device: torch.device) -> PartT:
    """The same with every tensor on `device`, however deep it lies in data classes and tuples."""
    if isinstance(part, Tensor):
        return part.to(device)
    if isinstance(part, tuple):
        return tuple(moved(each, device) for each in part)  # type: ignore[return-value]
    if not is_dataclass(part) or isinstance(part, type) or device.type == "cpu":
        return part
    return replace(part, **{f.name: moved(getattr(part, f.name), device) for f in fields(part)})


def tokens_of(tokenizer: Tokenizer, items: Sequence[Item]) -> Texts:
    """Tokens of items."""
    ids, kinds, weights = tokenizer(items).padded_weighted(np.arange(len(items)))
    return Texts(torch.from_numpy(ids).long(), torch.from_numpy(kinds).long(), torch.from_numpy(weights))


def titles_of(tokenizer: Tokenizer, titles: Sequence[str]) -> Texts:
    """Tokens of plain titles."""
    return tokens_of(tokenizer, [Item("", title=title) for title in titles])


def enrich_corpus(items: Sequence[Item], enricher: TextEnricher | None = None) -> tuple[str, ...]:
    """An enriched text of each item; empty for an item without words."""
    return enrich([Described(item) for item in items], enricher or Composer()).texts


def drop_fields(item: Item, random: np.random.Generator) -> Item:
    """The item with some text fields missing and a varied title, as catalogs have it."""
    if item.description and random.random() < 0.2:
        return replace(item, title=None, attributes=None)
    keep_title = not item.attributes or random.random() < 0.85
    return replace(
        item,
        title=vary_title(item.title or "", random) if keep_title else None,
        attributes=item.attributes if not keep_title or random.random() < 0.8 else None,
        description=item.description if random.random() < 0.4 else None,
    )


def made_up_titles(words: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    """Titles that nobody wrote: known words and made-up codes in any order, as the titles of other shops are to this model."""
    found = []
    for size in random.integers(2, 11, size=count):
        known = random.random(size) < 0.5
        parts = random.integers(len(words), size=size)
        found.append(" ".join(words[at] if keep else _code(random) for at, keep in zip(parts, known, strict=True)))
    return found


def _code(random: np.random.Generator) -> str:
    return "".join(_CODE[at] for at in random.integers(len(_CODE), size=int(random.integers(2, 9))))


def two_titles(title: str, variants: Sequence[str], random: np.random.Generator) -> tuple[str, str]:
    """Two ways to write one title; the second is damaged to a random degree, or weights would fit one kind of query."""
    options = (title, *variants)
    first, second = (options[int(random.integers(len(options)))] for _ in range(2))
    damage = random.random()
    left = first if random.random() < 0.5 else vary_title(first, random)
    return left, vary_title(second, random, drop=0.1 + 0.4 * damage, misspell=0.3 * damage)
