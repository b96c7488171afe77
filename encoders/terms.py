"""How much a term says: word frequencies of the language at large, and the weights of features that follow from them.

A catalog's own document frequencies would say more of that catalog and nothing of the next; a vector must not depend on
the corpus it is searched in. T features, W words of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured

_MAGIC: Final = b"MTTERMS1"
_STEP: Final = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class TermTable:
    """Zipf frequencies (log10 of occurrences in a billion words) by the fingerprint of a word.

    Attributes:
        fingerprints: (W,) uint32, rising.
        zipf: (W,) uint8 in steps of 0.04.
    """

    fingerprints: NDArray[np.uint32]
    zipf: NDArray[np.uint8]

    @classmethod
    def build(cls, fingerprints: NDArray[np.uint32], zipf: NDArray[np.floating]) -> TermTable:
        """Of W words; of two words with one fingerprint the commoner counts."""
        order = np.lexsort((-zipf, fingerprints))
        kept, first = np.unique(fingerprints[order], return_index=True)
        steps = np.clip(np.rint(zipf[order][first] / _STEP), 0, 255).astype(np.uint8)
        return cls(kept.astype(np.uint32), steps)

    @classmethod
    def from_bytes(cls, data: bytes) -> TermTable:
        """What `to_bytes` gave.

        Raises:
            Misconfigured: something else.
        """
        count = (len(data) - len(_MAGIC)) // 5
        if data[: len(_MAGIC)] != _MAGIC or len(data) != len(_MAGIC) + 5 * count:
            raise Misconfigured(
                f"term table: expected {_MAGIC!r} and 5 bytes a word, got {len(data)} bytes; copy the artifact again"
            )
        fingerprints = np.frombuffer(data, "<u4", count, len(_MAGIC))
        if count and (np.diff(fingerprints.astype(np.int64)) <= 0).any():
            raise Misconfigured("term table: expected rising fingerprints, got others; export the artifact again")
        return cls(fingerprints, np.frombuffer(data, np.uint8, count, len(_MAGIC) + 4 * count))

    def to_bytes(self) -> bytes:
        """Little-endian fingerprints, then steps."""
        return _MAGIC + self.fingerprints.astype("<u4").tobytes() + self.zipf.tobytes()

    def look_up(self, fingerprints: NDArray[np.uint32]) -> NDArray[np.float32]:
        """(T,) Zipf frequencies; 0 for a word that is not in the table: names, codes, misspellings."""
        if not len(self.fingerprints):
            return np.zeros(len(fingerprints), np.float32)
        at = np.searchsorted(self.fingerprints, fingerprints)
        at[at == len(self.fingerprints)] = 0
        found = self.fingerprints[at] == fingerprints
        return np.where(found, self.zipf[at] * np.float32(_STEP), np.float32(0.0))


@dataclass(frozen=True, slots=True)
class WeightConfig:
    """How weights follow from frequency, form and place of a word. Chosen on public product-title pairs.

    Args:
        ceiling: Zipf frequency at which a word says nothing; weight before powers is ``max(ceiling - zipf, floor)``.
        word_power, gram_power: of that weight, for words and for the character n-grams of a word.
        gram_share: of one word's grams together against the word, before `gram_length`.
        gram_length: a word's n grams share by ``n ** -gram_length`` each.
        bigram_share: of a pair of neighbouring words against its first word; 0: no bigrams.
        number_boost: of words with a digit: sizes, model numbers.
        number_zipf: Zipf frequency of a word of digits only, by its length; beyond the last it is rare.
        gram_zipf: words commoner than this have no n-grams: in long texts they would cost most and say least.
        fall, span: a word at place k of its text weighs ``1 - fall * min(k / span, 1)``: names come first, the shop's last.
    """

    ceiling: float = 9.5
    floor: float = 0.3
    word_power: float = 0.85
    gram_power: float = 0.45
    gram_share: float = 2.2
    gram_length: float = 0.2
    gram_zipf: float = 10.0
    bigram_share: float = 0.8
    number_boost: float = 1.5
    number_zipf: tuple[float, ...] = (5.5, 5.0, 4.5, 4.0, 2.0, 1.0)
    fall: float = 0.6
    span: float = 14.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "number_zipf", tuple(self.number_zipf))

    def base(self, zipf: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T,) what a word says, before form and place."""
        said: NDArray[np.float32] = np.maximum(np.float32(self.ceiling) - zipf, np.float32(self.floor)).astype(np.float32)
        return said

    def numbers(self, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """(T,) Zipf frequencies of words of digits only: no table could list them."""
        table = np.array((0.0, *self.number_zipf, 0.0), np.float32)
        return table[np.minimum(lengths, len(self.number_zipf) + 1)]

    def place(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(T,) factor of the place in the text, from 0."""
        return (1.0 - self.fall * np.minimum(places / self.span, 1.0)).astype(np.float32)


#: Of descriptions: in sixty words two or three are names, and they say what the title says.
DESCRIPTION_WEIGHTS: Final = WeightConfig(
    word_power=2.2, gram_power=1.7, gram_share=1.8, gram_zipf=4.5, bigram_share=0.7, fall=0.0
)
