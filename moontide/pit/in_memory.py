"""A training set from purchases without files: one vector an item, the same at every time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.pit import spans
from moontide.pit.aggregates import Activity
from moontide.pit.impressions import Impressions
from moontide.pit.purchases import Purchases
from moontide.pit.training_set import TrainingSet
from moontide.simtier import SimTierSpec, tier_counts_at

Ints = NDArray[np.int64]


def from_purchases(
    purchases: Purchases, impressions: Impressions, length: int, vectors: Embeddings | None, *, tiers: int = 20
) -> TrainingSet:
    """Labels, the last `length` purchases before each, scalars, and SimTier counts where there are vectors.

    Args:
        purchases: of all users; rows of users and items stay what they are.
        impressions: made from them.
        length: L.
        vectors: of one space, with ids; an item without one has vector -1. None: no vectors, and no counts (N = 0).
        tiers: N; the candidate itself in a history is counted nowhere (``drop_same_id``).
    """
    activity = Activity(purchases.user, purchases.item, purchases.time, len(purchases.item_ids))
    lines = activity.by_user
    first, stop = lines.first(impressions.user), lines.before(impressions.user, impressions.time)
    rows, offsets = spans.indices(np.maximum(first, stop - length), stop)
    history, request = lines.values[rows], impressions.request
    scalars = activity.scalars(impressions.user[request], impressions.item, impressions.time[request], (stop - first)[request])
    place = _places(vectors, purchases.item_ids)
    history_vectors, vector = place[history], place[impressions.item]
    counts, missing = np.zeros((len(request), 0), np.int32), np.diff(offsets)[request].astype(np.int32)
    if vectors is not None:
        spec = SimTierSpec(vectors.space.id, tiers=tiers, length=length)
        found = tier_counts_at(
            vectors, vector, impressions.offsets, history_vectors, offsets, spec,
            candidate_keys=impressions.item, history_keys=history,
        )  # fmt: skip
        counts, missing = found.counts, found.missing
    return TrainingSet(
        user_ids=purchases.user_ids, item_ids=purchases.item_ids, request_user=impressions.user, request_time=impressions.time,
        known=stop - first, history_items=history, history_vectors=history_vectors, history_times=lines.times[rows],
        history_offsets=offsets, request=request, item=impressions.item, vector=vector, label=impressions.label,
        label_row=np.arange(len(request)), labels={}, scalars=scalars, counts=counts, missing=missing, vectors=vectors, card={},
    )  # fmt: skip


def _places(vectors: Embeddings | None, item_ids: tuple[str, ...]) -> Ints:
    """Row of each item's vector; -1 where it has none."""
    rows = {} if vectors is None else {item: row for row, item in enumerate(vectors.ids or ()) if vectors.present[row]}
    return np.fromiter((rows.get(item, -1) for item in item_ids), np.int64, len(item_ids))
