"""Cleaning of purchase pairs before post-training (MOON Embedding, arXiv 2511.11305): fewer, harder, better pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: A text of one word names no thing: our stand-in for the paper's filter of texts with fewer than two named entities.
MIN_WORDS: Final = 2
#: The least alike pairs of all are mistakes of the log more often than lessons.
NOISE: Final = 0.05


def keep_hard(
    items: NDArray[np.int64], cosines: NDArray[np.float32], *, per_item: int, noise: float = NOISE
) -> NDArray[np.int64]:
    """Places of at most `per_item` pairs of each item, those of lowest cosine; the lowest share `noise` of all pairs is left out.

    Args:
        items: (P,) what was bought.
        cosines: (P,) of query and item under the model so far; a pair of NaN cosine is left out.
    """
    known = np.flatnonzero(np.isfinite(cosines))
    if not len(known):
        return known
    kept = known[cosines[known] >= np.quantile(cosines[known], noise)]
    order = kept[np.lexsort((cosines[kept], items[kept]))]
    starts = np.r_[True, items[order][1:] != items[order][:-1]]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    return np.sort(order[np.arange(len(order)) - first < per_item])


def speaking(texts: Sequence[str | None]) -> NDArray[np.bool_]:
    """(P,) whether a query text has two words or more; a query without text is kept."""
    return np.array([text is None or len(text.split()) >= MIN_WORDS for text in texts], bool)
