"""Retrieval measures on canonical vectors, brute force. Q queries, G gallery rows, D dims.

``-inf`` in `scores` takes a row out of the gallery of that query; `relevant` is (Q, G) and false there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.spaces import require_same_space


def cosines(queries: Embeddings, gallery: Embeddings) -> NDArray[np.float32]:
    """(Q, G) cosines of the int8 codes, as served.

    Raises:
        SpaceMismatch: the two differ in space.
    """
    require_same_space(queries.space, gallery.space, where="cosines")
    # Partial sums of int8 products stay exact in float32 up to dim 1040.
    dots = queries.codes.astype(np.float32) @ gallery.codes.astype(np.float32).T
    return dots * queries.inv_norm[:, None] * gallery.inv_norm[None, :]


def recall_at(scores: NDArray[np.float32], relevant: NDArray[np.bool_], k: int) -> float:
    """Share of queries with a relevant row among their k best; queries without a relevant row do not count."""
    asked = relevant.any(axis=1)
    return float(hits_of(best_first(scores[asked], k), relevant[asked]).any(axis=1).mean())


def precision_at(scores: NDArray[np.float32], relevant: NDArray[np.bool_], k: int) -> float:
    """Mean share of relevant rows among the k best of each query that has any."""
    asked = relevant.any(axis=1)
    return float(hits_of(best_first(scores[asked], k), relevant[asked]).mean())


def mean_average_precision(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Mean over queries of the average precision over the whole gallery."""
    asked = relevant.any(axis=1)
    hits = hits_of(best_first(scores[asked], scores.shape[1]), relevant[asked])
    return float(average_precisions(hits, hits.sum(axis=1)).mean())


def best_first(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(Q, min(k, G)) gallery rows of the best scores, best first; equal scores in row order, but where they end a list."""
    if k * 4 >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def hits_of(best: NDArray[np.int64], relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(Q, k) whether each of the `best` rows is relevant."""
    return np.take_along_axis(relevant, best, axis=1)


def average_precisions(hits: NDArray[np.bool_], relevant: NDArray[np.integer]) -> NDArray[np.float64]:
    """(Q,) average precision of whole ranked galleries (Q, G); `relevant` (Q,) counts the relevant rows, 1 or more."""
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return np.asarray((precision * hits).sum(axis=1) / relevant)
