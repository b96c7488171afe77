"""Weights of the features of a batch of texts, from a word's frequency, form and place. T words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encoders.spans import Words
from encoders.terms import TermTable, WeightConfig


class Weigher:
    """Weights of the features of one field over a batch.

    Attributes:
        has_grams: (T,) words that are not too common for n-grams.
    """

    def __init__(self, config: WeightConfig, terms: TermTable, words: Words) -> None:
        self.config = config
        self.lengths = words.stops - words.starts
        digits = words.digits
        zipf = np.where(digits == self.lengths, config.numbers(self.lengths), terms.look_up(words.fingerprints))
        self.base = config.base(zipf)
        self.has_grams = zipf <= config.gram_zipf
        first = np.searchsorted(words.owners, words.owners, side="left")
        place = config.place(np.arange(len(words.owners)) - first)
        self.form = place * np.where(digits > 0, np.float32(config.number_boost), np.float32(1.0))

    def words(self) -> NDArray[np.float32]:
        """(T,) of the words."""
        weights: NDArray[np.float32] = (self.base**self.config.word_power * self.form).astype(np.float32)
        return weights

    def grams(self, word: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of n-grams that lie in the words `word`."""
        config = self.config
        share = config.gram_share * self.base**config.gram_power * np.maximum(self.lengths, 1) ** -config.gram_length
        weights: NDArray[np.float32] = (share * self.form)[word].astype(np.float32)
        return weights

    def bigrams(self, first: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of pairs that begin with the words `first`."""
        return (self.config.bigram_share * self.words()[first]).astype(np.float32)
