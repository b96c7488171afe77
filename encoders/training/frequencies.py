"""The term table of a new encoder: how often words occur in the languages of European shops."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from encoders.terms import TermTable
from encoders.tokenizer import Tokenizer, TokenizerConfig, normalise
from moontide.errors import Misconfigured

LANGUAGES: Final = ("en", "de", "fr", "es", "it", "nl", "pl", "pt")
#: Rarer words count as unknown: names and codes, which say most.
LEAST_ZIPF: Final = 3.5
SOURCE: Final[dict[str, Any]] = {
    "name": "wordfreq",
    "title": "wordfreq 3.1.1",
    "author": "Robyn Speer",
    "url": "https://github.com/rspeer/wordfreq",
    "licence": "Apache-2.0 (code), CC-BY-SA-4.0 (data)",
    "use": f"Zipf frequencies from {LEAST_ZIPF} on of {', '.join(LANGUAGES)}",
}
_LONGEST: Final = 40


def build_term_table() -> TermTable:
    """A word's frequency is that of the language where it is commonest; case and accents do not count.

    Raises:
        Misconfigured: wordfreq is not installed.
    """
    try:
        from wordfreq import get_frequency_dict
    except ImportError as error:
        raise Misconfigured("term table: expected the package wordfreq, got none; install moontide[train]") from error
    best: dict[str, float] = {}
    for language in LANGUAGES:
        for word, share in get_frequency_dict(language, "large").items():
            zipf = math.log10(share) + 9.0
            if zipf < LEAST_ZIPF:
                continue
            plain = normalise(word, _LONGEST)
            if plain.isalnum() and zipf > best.get(plain, 0.0):
                best[plain] = zipf
    words = sorted(best)
    fingerprints = Tokenizer(TokenizerConfig()).fingerprints(words)
    return TermTable.build(fingerprints, np.array([best[word] for word in words]))
