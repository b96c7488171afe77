"""Retrieval measures on canonical vectors, brute force. Q queries, G gallery rows, D dims."""

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
    """Share of queries with a relevant row among their k best; queries without a relevant row do not count.

    Args:
        scores: (Q, G); ``-inf`` takes a row out of the gallery of that query.
        relevant: (Q, G).
        k: list length.
    """
    asked = relevant.any(axis=1)
    best = np.argsort(-scores[asked], axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(relevant[asked], best, axis=1).any(axis=1).mean())


def precision_at(scores: NDArray[np.float32], relevant: NDArray[np.bool_], k: int) -> float:
    """Mean share of relevant rows among the k best of each query that has any. Shapes as in `recall_at`."""
    asked = relevant.any(axis=1)
    best = np.argsort(-scores[asked], axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(relevant[asked], best, axis=1).mean())


def mean_average_precision(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Mean over queries of the average precision over the whole gallery. Shapes as in `recall_at`."""
    asked = relevant.any(axis=1)
    order = np.argsort(-scores[asked], axis=1, kind="stable")
    hits = np.take_along_axis(relevant[asked], order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())
