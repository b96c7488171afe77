"""k-NN prediction of a value (a category, a colour) from vectors. b queries of a block, G gallery rows, k neighbours."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.tasks import SameKey

NEIGHBOURS: Final = 10


def votes_right(
    best: NDArray[np.int64], scores: NDArray[np.float32], values: SameKey, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(b,) 1 where the weighted vote of the nearest rows names the query's own value.

    A neighbour's weight is how far its score lies above the worst of the k, in shares of the span from best to worst,
    plus 1: so the vote does not depend on the scale of a method's scores. The tie goes to the nearer value.

    Args:
        best: (b, k) gallery rows, best first.
        scores: (b, k) their scores; ``-inf`` where the row is out of the gallery.
        values: of queries and gallery.
        rows: (b,) the queries.
    """
    if not best.shape[1]:
        return np.zeros(len(rows))
    finite = np.isfinite(scores)
    worst = np.where(finite, scores, np.inf).min(axis=1, keepdims=True)
    span = np.where(finite, scores, -np.inf).max(axis=1, keepdims=True) - worst
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = 1.0 + np.where(span > 0, (scores - worst) / span, 0.0)
    weights = np.where(finite, weights, 0.0)
    named = values.gallery[best]
    same = named[:, :, None] == named[:, None, :]
    totals = (same * weights[:, None, :]).sum(axis=2)
    winner = np.take_along_axis(named, totals.argmax(axis=1)[:, None], axis=1)[:, 0]
    return ((winner == values.queries[rows]) & finite.any(axis=1)).astype(np.float64)


def rightly_common(values: SameKey) -> NDArray[np.float64]:
    """(Q,) 1 where the gallery's most frequent value is the query's: what accuracy stands beside."""
    known = values.gallery[values.gallery >= 0]
    common = int(np.bincount(known).argmax()) if len(known) else -2
    return (values.queries == common).astype(np.float64)
