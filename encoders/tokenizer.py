"""Text to hashed features: words and character n-grams, without a Python loop over characters.

B texts, L features a text. A feature's hash is a polynomial over the code points of its span, read off one prefix sum
over the whole batch; hence thousands of titles cost a few array operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.item import Item
from encoders.spans import normalise, read_words
from encoders.terms import TermTable, WeightConfig
from encoders.weigher import Weigher
from moontide.errors import Misconfigured

__all__ = ["Kind", "Part", "Tokenizer", "TokenizerConfig", "Tokens", "normalise"]


class Kind(IntEnum):
    """What a feature is; the model weighs every kind apart. `PAD` fills rows up to L and weighs nothing."""

    PAD = 0
    TITLE_WORD = 1
    TITLE_GRAM = 2
    ATTRIBUTE_WORD = 3
    ATTRIBUTE_GRAM = 4
    DESCRIPTION_WORD = 5
    TITLE_BIGRAM = 6
    ATTRIBUTE_BIGRAM = 7
    DESCRIPTION_GRAM = 8
    DESCRIPTION_BIGRAM = 9


_TITLE: Final = (Kind.TITLE_WORD, Kind.TITLE_GRAM, Kind.TITLE_BIGRAM)
_ATTRIBUTES: Final = (Kind.ATTRIBUTE_WORD, Kind.ATTRIBUTE_GRAM, Kind.ATTRIBUTE_BIGRAM)
_DESCRIPTION: Final = (Kind.DESCRIPTION_WORD, Kind.DESCRIPTION_GRAM, Kind.DESCRIPTION_BIGRAM)


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What `tokenizer.json` holds.

    Args:
        buckets: rows of the embedding table.
        grams: lengths of character n-grams; a word's boundary counts as one character.
        title_chars, attribute_chars, description_chars: how much of each field is read.
        weights: how features are weighed by a `TermTable`; None: every feature weighs 1, and none is left out.
        description_weights: the same for descriptions; None: only words are read of them, and weighed by `weights`.
    """

    buckets: int = 32_768
    grams: tuple[int, ...] = (3,)
    title_chars: int = 300
    attribute_chars: int = 300
    description_chars: int = 2_000
    weights: WeightConfig | None = None
    description_weights: WeightConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grams", tuple(self.grams))
        for name in ("weights", "description_weights"):
            if isinstance(getattr(self, name), dict):
                object.__setattr__(self, name, WeightConfig(**getattr(self, name)))


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Ragged features of B texts: row b owns ``ids[offsets[b]:offsets[b + 1]]``.

    Attributes:
        ids: (T,) int32 buckets.
        kinds: (T,) uint8 of `Kind`.
        offsets: (B + 1,) int64.
        weights: (T,) float32, what each feature says; None: all the same.
    """

    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,) features per row."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Tokens:
        """The texts of `rows`, in that order."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Tokens(self.ids[source], self.kinds[source], offsets, None if self.weights is None else self.weights[source])

    def inputs(self, rows: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
        """What a text model reads of `rows`, each (len(rows), L), padded with bucket 0 of `Kind.PAD` and weight 0."""
        ids, kinds, weights = self.padded_weighted(rows)
        found: dict[str, NDArray[np.generic]] = {"ids": ids, "kinds": kinds}
        if self.weights is not None:
            found["weights"] = weights
        return found

    def padded(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Ids and kinds of `rows`, each (len(rows), L), padded with bucket 0 of `Kind.PAD`."""
        return self.padded_weighted(rows)[:2]

    def padded_weighted(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.float32]]:
        """As `padded`, with weights: 1 where there are none, 0 in the padding."""
        lengths = self.lengths[rows]
        width = max(int(lengths.max(initial=0)), 1)
        columns = np.arange(width)
        inside = columns[None, :] < lengths[:, None]
        source = (self.offsets[rows][:, None] + columns[None, :])[inside]
        ids = np.zeros(inside.shape, np.int32)
        kinds = np.zeros(inside.shape, np.uint8)
        weights = np.zeros(inside.shape, np.float32)
        ids[inside] = self.ids[source]
        kinds[inside] = self.kinds[source]
        weights[inside] = 1.0 if self.weights is None else self.weights[source]
        return ids, kinds, weights


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Features of one kind in one field: the row, bucket and weight of each."""

    owners: NDArray[np.int64]
    ids: NDArray[np.int32]
    kind: Kind
    weights: NDArray[np.float32] | None


class Tokenizer:
    """Turns items into `Tokens`. Needs no vocabulary: what is not in the term table counts as rare."""

    def __init__(self, config: TokenizerConfig, terms: TermTable | None = None) -> None:
        """Raises Misconfigured: weights are asked for and no term table is given."""
        if config.weights is not None and terms is None:
            raise Misconfigured("tokenizer: expected a term table with weights, got none; copy the whole artifact again")
        self.config = config
        self.terms = terms

    def __call__(self, items: Sequence[Item]) -> Tokens:
        """Features of `items` in order; an item without letters or digits has none."""
        config = self.config
        titles, described = config.weights, config.description_weights or config.weights
        fields = (
            ([item.title for item in items], config.title_chars, _TITLE, titles),
            ([item.attributes for item in items], config.attribute_chars, _ATTRIBUTES, titles),
            ([item.description for item in items], config.description_chars, self._description_kinds, described),
        )
        parts = [part for field in fields if any(field[0]) for part in self._field(*field)]
        return _merge(parts, len(items), weighted=config.weights is not None)

    @property
    def _description_kinds(self) -> tuple[Kind, ...]:
        return _DESCRIPTION if self.config.description_weights is not None else _DESCRIPTION[:1]

    def fingerprints(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """(len(texts),) of the first word of each text; 0 for a text without one."""
        found = np.zeros(len(texts), np.uint32)
        words = read_words(texts, self.config.title_chars)
        rows, first = np.unique(words.owners, return_index=True)
        found[rows] = words.fingerprints[first]
        return found

    def _field(
        self, texts: Sequence[str | None], limit: int, kinds: tuple[Kind, ...], weights: WeightConfig | None
    ) -> list[Part]:
        words = read_words(texts, limit)
        weigh = None if weights is None or self.terms is None else Weigher(weights, self.terms, words)
        parts = [Part(words.owners, self._bucket(words.hashes), kinds[0], None if weigh is None else weigh.words())]
        if len(kinds) == 1:
            return parts
        for size in self.config.grams:
            grams = words.grams(size) if weigh is None else words.grams(size).of(weigh.has_grams)
            said = None if weigh is None else weigh.grams(grams.word)
            parts.append(Part(words.owners[grams.word], self._bucket(grams.hashes), kinds[1], said))
        if weigh is not None and weigh.config.bigram_share:
            first, pairs = words.bigrams()
            parts.append(Part(words.owners[first], self._bucket(pairs), kinds[2], weigh.bigrams(first)))
        return parts

    def _bucket(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        return (hashes % np.uint64(self.config.buckets)).astype(np.int32)


def _merge(parts: Sequence[Part], rows: int, *, weighted: bool) -> Tokens:
    owners = np.concatenate([np.zeros(0, np.int64), *[part.owners for part in parts]])
    ids = np.concatenate([np.zeros(0, np.int32), *[part.ids for part in parts]])
    kinds = np.concatenate([np.zeros(0, np.uint8), *[np.full(len(part.owners), part.kind, np.uint8) for part in parts]])
    weights = np.concatenate([np.zeros(0, np.float32), *[part.weights for part in parts if part.weights is not None]])
    order = np.argsort(owners, kind="stable")
    if weighted and len(order):
        # A word said twice says nothing new; the first place of it counts, and argsort is stable.
        keys = (owners[order] << np.int64(40)) | (kinds[order].astype(np.int64) << np.int64(32)) | ids[order].astype(np.int64)
        first = np.unique(keys, return_index=True)[1]
        order = order[np.sort(first)]
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(owners[order], minlength=rows), out=offsets[1:])
    return Tokens(ids[order], kinds[order], offsets, weights[order] if weighted else None)
