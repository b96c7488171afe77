"""Other ways to write a title. No torch: measuring uses them too. Randomness is passed in."""

from __future__ import annotations

import numpy as np

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vary_title(title: str, random: np.random.Generator, *, drop: float = 0.2, misspell: float = 0.15) -> str:
    """Another way to write a title: words dropped, swapped, joined, shortened or misspelt. Never empty.

    `drop` and `misspell` are the probabilities of each word.
    """
    words = title.split()
    if len(words) > 2:
        keep = random.random(len(words)) > drop
        words = [word for word, kept in zip(words, keep, strict=True) if kept] or words
    if len(words) > 1 and random.random() < 0.5:
        at = int(random.integers(len(words) - 1))
        words[at], words[at + 1] = words[at + 1], words[at]
    if len(words) > 1 and random.random() < 0.15:
        at = int(random.integers(len(words) - 1))
        words[at : at + 2] = [words[at] + words[at + 1]]
    return " ".join(_misspell(word, random) if random.random() < misspell else word for word in words)


def _misspell(word: str, random: np.random.Generator) -> str:
    if len(word) < 4:
        return word
    at = int(random.integers(1, len(word) - 1))
    choice = int(random.integers(5))
    if choice == 0:
        return word[:at] + word[at + 1 :]
    if choice == 1:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if choice == 2:
        return word[:at] + _LETTERS[int(random.integers(26))] + word[at:]
    if choice == 3:
        return word[: max(3, at)]
    return word[:-1] if word[-1] in "sS" else word + "s"
