"""What a CTR model reads of each impression beside the item ids: scalars of the ID baseline, and SimTier.

I impressions, N tiers. Every value is known strictly before the impression's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.pit.histories import Histories
from moontide.pit.impressions import Impressions
from moontide.pit.purchases import DAY, Purchases
from moontide.pit.timeline import Timeline
from moontide.simtier import SimTierSpec, TierCounts, tier_counts_ragged

SCALARS: Final = ("sales_30_days", "sales_7_days", "sales_ever", "age_days", "history_length", "bought_before")
#: Requests per call of the kernel: what is gathered for one call stays below some 100 MB.
BLOCK: Final = 512


def scalars(purchases: Purchases, impressions: Impressions, histories: Histories) -> NDArray[np.float32]:
    """(I, 6) float32 ``log1p`` of `SCALARS`: sales of the item, its age, behaviours of the user, purchases by the user."""
    zeros = np.zeros(len(purchases), np.int64)
    total = len(purchases.item_ids)
    sales = Timeline(purchases.item, purchases.time, zeros)
    owned = Timeline(purchases.user * total + purchases.item, purchases.time, zeros)
    item, user = impressions.item, impressions.user[impressions.request]
    time = impressions.time[impressions.request]
    first_sold = np.full(total, np.iinfo(np.int64).max)
    np.minimum.at(first_sold, purchases.item, purchases.time)
    columns = (
        sales.count(item, time, within=30 * DAY),
        sales.count(item, time, within=7 * DAY),
        sales.count(item, time),
        np.maximum(time - first_sold[item], 0) / DAY,
        histories.known[impressions.request],
        owned.count(user * total + item, time),
    )
    return np.log1p(np.stack(columns, axis=1).astype(np.float64)).astype(np.float32)


def simtier(
    purchases: Purchases, impressions: Impressions, histories: Histories, vectors: Embeddings, *, tiers: int
) -> TierCounts:
    """Tier counts of every impression against its request's history, by the kernel that serving uses.

    The candidate itself in the history is left out (``drop_same_id``). An item without a vector is `missing`.
    """
    spec = SimTierSpec(vectors.space.id, tiers=tiers, length=histories.length)
    catalog = aligned(vectors, purchases.item_ids)
    offsets = impressions.offsets
    parts = [
        _block(catalog, impressions, histories, offsets[at : min(at + BLOCK, len(offsets) - 1) + 1], at, spec)
        for at in range(0, len(offsets) - 1, BLOCK)
    ]
    counts = np.concatenate([np.zeros((0, tiers), np.int32), *(part.counts for part in parts)])
    return TierCounts(counts, np.concatenate([np.zeros(0, np.int32), *(part.missing for part in parts)]))


def aligned(vectors: Embeddings, item_ids: tuple[str, ...]) -> Embeddings:
    """Vectors in the order of `item_ids`; an item without one is a row that is not present."""
    rows = {item_id: row for row, item_id in enumerate(vectors.ids or ())}
    at = np.array([rows.get(item_id, -1) for item_id in item_ids], np.int64)
    codes = np.zeros((len(at), vectors.space.dim), np.int8)
    scale = np.zeros(len(at), np.float32)
    codes[at >= 0], scale[at >= 0] = vectors.codes[at[at >= 0]], vectors.scale[at[at >= 0]]
    return Embeddings.from_codes(vectors.space, codes, scale, ids=item_ids)


def _block(
    catalog: Embeddings,
    impressions: Impressions,
    histories: Histories,
    offsets: NDArray[np.int64],
    first: int,
    spec: SimTierSpec,
) -> TierCounts:
    requests = slice(first, first + len(offsets) - 1)
    start, lengths = histories.start[requests], (histories.stop - histories.start)[requests]
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    rows = np.repeat(start - bounds[:-1], lengths) + np.arange(bounds[-1])
    candidates = catalog.take(impressions.item[offsets[0] : offsets[-1]])
    return tier_counts_ragged(candidates, offsets - offsets[0], catalog.take(histories.items[rows]), bounds, spec)


@dataclass(frozen=True, slots=True)
class Standard:
    """Shift and scale of columns, from the training rows."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> Standard:
        """Mean and standard deviation of the columns; a column that does not vary is left as it is."""
        spread = rows.std(axis=0, dtype=np.float64)
        return cls(
            rows.mean(axis=0, dtype=np.float64).astype(np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
        )

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows with mean 0 and spread 1 per column."""
        return ((rows - self.mean) / self.spread).astype(np.float32)
