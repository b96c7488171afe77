"""Text to hashed features: words and character n-grams, without a Python loop over characters.

B texts, L features a text. A feature's hash is a polynomial over the code points of its span, read off one prefix sum
over the whole batch; hence thousands of titles cost a few array operations.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.item import Item
from encoders.terms import TermTable, WeightConfig
from moontide.errors import Misconfigured

_BASE: Final = 0x9E3779B97F4A7C15 | 1
_BASE_INVERSE: Final = pow(_BASE, -1, 2**64)
_SPACE: Final = 32


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


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What `tokenizer.json` holds.

    Args:
        buckets: rows of the embedding table.
        grams: lengths of character n-grams; a word's boundary counts as one character.
        title_chars, attribute_chars, description_chars: how much of each field is read.
        weights: how features are weighed by a `TermTable`; None: every feature weighs 1, and none is left out.
    """

    buckets: int = 32_768
    grams: tuple[int, ...] = (3,)
    title_chars: int = 300
    attribute_chars: int = 300
    description_chars: int = 2_000
    weights: WeightConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grams", tuple(self.grams))
        if isinstance(self.weights, dict):
            object.__setattr__(self, "weights", WeightConfig(**self.weights))


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
        fields = (
            ([item.title for item in items], config.title_chars, (Kind.TITLE_WORD, Kind.TITLE_GRAM, Kind.TITLE_BIGRAM)),
            (
                [item.attributes for item in items],
                config.attribute_chars,
                (Kind.ATTRIBUTE_WORD, Kind.ATTRIBUTE_GRAM, Kind.ATTRIBUTE_BIGRAM),
            ),
            ([item.description for item in items], config.description_chars, (Kind.DESCRIPTION_WORD,)),
        )
        parts = [part for texts, limit, kinds in fields if any(texts) for part in self._field(texts, limit, kinds)]
        return _merge(parts, len(items), weighted=config.weights is not None)

    def fingerprints(self, words: Sequence[str]) -> NDArray[np.uint32]:
        """(len(words),) of the first word of each text; 0 for a text without one."""
        codes, owners = _code_points([normalise(word, self.config.title_chars) for word in words])
        sums, inverses = _prefix_sums(codes)
        starts, stops = _words(codes)
        rows, first = np.unique(owners[starts], return_index=True)
        found = np.zeros(len(words), np.uint32)
        found[rows] = _fingerprint(_hash(sums, inverses, starts - 1, stops + 1, seed=1))[first]
        return found

    def _field(self, texts: Sequence[str | None], limit: int, kinds: tuple[Kind, ...]) -> list[Part]:
        codes, owners = _code_points([normalise(text, limit) for text in texts])
        sums, inverses = _prefix_sums(codes)
        starts, stops = _words(codes)
        hashes = _hash(sums, inverses, starts - 1, stops + 1, seed=1)
        weigh = None if self.config.weights is None else _Weigher(self.config.weights, self.terms, codes, owners, starts, hashes)
        parts = [Part(owners[starts], self._bucket(hashes), kinds[0], None if weigh is None else weigh.words())]
        if len(kinds) == 1:
            return parts
        # A window may touch white space at its ends only, or it would span two words.
        breaks = np.concatenate([[0], np.cumsum(codes == _SPACE)])
        for size in self.config.grams:
            first = np.arange(max(len(codes) - size + 1, 0))
            whole = breaks[first + size - 1] == breaks[first + 1]
            first = first[whole]
            word = np.searchsorted(starts, first + 1, side="right") - 1
            grams = _hash(sums, inverses, first, first + size, seed=2)
            parts.append(Part(owners[first + 1], self._bucket(grams), kinds[1], None if weigh is None else weigh.grams(word)))
        if weigh is not None and weigh.config.bigram_share:
            first = np.flatnonzero(owners[starts[:-1]] == owners[starts[1:]])
            pairs = _mix(hashes[first] * np.uint64(3) + hashes[first + 1])
            parts.append(Part(owners[starts[first]], self._bucket(pairs), kinds[2], weigh.bigrams(first)))
        return parts

    def _bucket(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        return (hashes % np.uint64(self.config.buckets)).astype(np.int32)


class _Weigher:
    """Weights of the features of one field over a batch."""

    def __init__(
        self, config: WeightConfig, terms: TermTable | None, codes: NDArray[np.uint32], owners: NDArray[np.int64],
        starts: NDArray[np.int64], hashes: NDArray[np.uint64],
    ) -> None:  # fmt: skip
        assert terms is not None
        self.config = config
        digits = np.concatenate([[0], np.cumsum((codes >= 48) & (codes <= 57))])
        stops = _words(codes)[1]
        self.lengths = stops - starts
        count = digits[stops] - digits[starts]
        zipf = np.where(count == self.lengths, config.numbers(self.lengths), terms.look_up(_fingerprint(hashes)))
        self.base = config.base(zipf)
        row = owners[starts]
        first = np.searchsorted(row, row, side="left")
        place = config.place(np.arange(len(starts)) - first)
        number = np.where(count > 0, np.float32(config.number_boost), np.float32(1.0))
        self.form = place * number

    def words(self) -> NDArray[np.float32]:
        return (self.base**self.config.word_power * self.form).astype(np.float32)

    def grams(self, word: NDArray[np.int64]) -> NDArray[np.float32]:
        share = (
            self.config.gram_share * self.base**self.config.gram_power * np.maximum(self.lengths, 1) ** -self.config.gram_length
        )
        return (share * self.form)[word].astype(np.float32)

    def bigrams(self, first: NDArray[np.int64]) -> NDArray[np.float32]:
        return (self.config.bigram_share * self.words()[first]).astype(np.float32)


def normalise(text: str | None, limit: int) -> str:
    """The first `limit` characters, without case and accents."""
    if not text:
        return ""
    text = text[:limit]
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in folded if not unicodedata.combining(char))[: 2 * limit]


def _code_points(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Code points of all texts, separators as spaces, a space around each text, and the row that owns each."""
    joined = " " + "".join(f"{text} " for text in texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).copy()
    codes[~_is_word_character(codes)] = _SPACE
    lengths = np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts))
    owners = np.empty(len(codes), np.int64)
    owners[0] = 0
    owners[1:] = np.repeat(np.arange(len(texts)), lengths)
    return codes, owners


def _is_word_character(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    digit = (codes >= 48) & (codes <= 57)
    letter = (codes >= 97) & (codes <= 122)
    # Above Latin-1's signs everything is a letter but punctuation, symbols (2000-2BFF) and CJK punctuation.
    other = (codes >= 0xC0) & ~((codes >= 0x2000) & (codes < 0x2C00)) & ~((codes >= 0x3000) & (codes < 0x3040))
    result: NDArray[np.bool_] = digit | letter | other
    return result


def _words(codes: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    inside = codes != _SPACE
    edges = np.diff(inside.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _prefix_sums(codes: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Sums S with S[j] - S[i] = sum of codes[i:j] * base^position, and base^-position, all modulo 2^64."""
    count = len(codes)
    powers = np.full(count, _BASE, np.uint64)
    powers[0] = 1
    np.cumprod(powers, out=powers)
    inverses = np.full(count, _BASE_INVERSE, np.uint64)
    inverses[0] = 1
    np.cumprod(inverses, out=inverses)
    sums = np.zeros(count + 1, np.uint64)
    np.cumsum(_mix(codes.astype(np.uint64)) * powers, out=sums[1:])
    return sums, inverses


def _hash(
    sums: NDArray[np.uint64],
    inverses: NDArray[np.uint64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    *,
    seed: int,
) -> NDArray[np.uint64]:
    """(T,) hashes of the spans ``codes[starts:stops]``."""
    return _mix((sums[stops] - sums[starts]) * inverses[starts] + np.uint64(seed))


def _fingerprint(hashes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    return (hashes >> np.uint64(32)).astype(np.uint32)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: neighbouring inputs land far apart."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


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
