"""Spans of text as 64-bit hashes, thousands of texts in a few array operations.

The hash of a span is a polynomial over its code points, read off one prefix sum over the whole batch; it does not depend on
where the span lies. C characters of all texts, T spans.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BASE: Final = 0x9E3779B97F4A7C15 | 1
_BASE_INVERSE: Final = pow(_BASE, -1, 2**64)
SPACE: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Grams:
    """Character n-grams: hashes (T,) uint64, and the word (T,) int64 that each lies in."""

    hashes: NDArray[np.uint64]
    word: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> Grams:
        """Those of the words where `chosen` (by word) holds."""
        kept = chosen[self.word]
        return Grams(self.hashes[kept], self.word[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of B texts, in order.

    Attributes:
        codes: (C,) code points of all texts.
        owners, starts, stops: (T,) int64, the text of each word and its place among the code points.
        hashes: (T,) uint64.
    """

    codes: NDArray[np.uint32]
    owners: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    sums: tuple[NDArray[np.uint64], NDArray[np.uint64]]

    @property
    def fingerprints(self) -> NDArray[np.uint32]:
        """(T,) of the words."""
        return (self.hashes >> np.uint64(32)).astype(np.uint32)

    @property
    def digits(self) -> NDArray[np.int64]:
        """(T,) digits in each word."""
        before = np.concatenate([[0], np.cumsum((self.codes >= 48) & (self.codes <= 57))])
        count: NDArray[np.int64] = before[self.stops] - before[self.starts]
        return count

    def grams(self, size: int) -> Grams:
        """Character n-grams of a length; a word's boundary counts as one character."""
        # A window may touch white space at its ends only, or it would span two words.
        breaks = np.concatenate([[0], np.cumsum(self.codes == SPACE)])
        first = np.arange(max(len(self.codes) - size + 1, 0))
        first = first[breaks[first + size - 1] == breaks[first + 1]]
        word = np.searchsorted(self.starts, first + 1, side="right") - 1
        return Grams(_hash(*self.sums, first, first + size, seed=2), word)

    def bigrams(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """(T,) words that another of their text follows, and the hashes of those pairs."""
        first = np.flatnonzero(self.owners[:-1] == self.owners[1:])
        return first, _mix(self.hashes[first] * np.uint64(3) + self.hashes[first + 1])


def read_words(texts: Sequence[str | None], limit: int) -> Words:
    """The words of the first `limit` characters of each text."""
    codes, owners = _code_points([normalise(text, limit) for text in texts])
    sums = _prefix_sums(codes)
    starts, stops = _words(codes)
    return Words(codes, owners[starts], starts, stops, _hash(*sums, starts - 1, stops + 1, seed=1), sums)


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
    codes[~_is_word_character(codes)] = SPACE
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
    inside = codes != SPACE
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


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: neighbouring inputs land far apart."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
