"""What a user had bought before an impression: the last L behaviours strictly before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moontide.pit.impressions import Impressions
from moontide.pit.purchases import Purchases
from moontide.pit.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Histories:
    """Histories of R requests: request r has ``items[start[r]:stop[r]]``, newest last, ordered by (time, item).

    `items` are the purchases of all users end to end, so a history is a slice and no behaviour is copied.
    `known` is how many behaviours lie before the request, those beyond L too.
    """

    items: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    known: NDArray[np.int64]
    length: int

    def padded(self, requests: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(B, L) item rows and (B, L) bool presence, newest last, padding (item 0, False) in front."""
        at = self.stop[requests][:, None] - np.arange(self.length, 0, -1)[None, :]
        present = at >= self.start[requests][:, None]
        if not len(self.items):
            return np.zeros(at.shape, np.int64), present
        return np.where(present, self.items[np.maximum(at, 0)], 0), present


def histories_of(purchases: Purchases, impressions: Impressions, length: int) -> Histories:
    """Histories of every request; behaviours at the request's own time are not in them."""
    lines = Timeline(purchases.user, purchases.time, purchases.item)
    first, stop = lines.first(impressions.user), lines.before(impressions.user, impressions.time)
    return Histories(lines.values, np.maximum(first, stop - length), stop, stop - first, length)
