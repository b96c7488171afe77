"""Scalars of an impression that follow from behaviours: how much an item sells, how old it is, what the user did before.

Every value counts what lies strictly before the impression. Q queries.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.pit.purchases import DAY
from moontide.pit.timeline import Timeline

#: In this order. `sales_*` count behaviours of all users on the item; `age_days` is the time since the item's first one;
#: `history_length` counts the user's behaviours and `bought_before` those on this item.
SCALARS: Final = ("sales_30_days", "sales_7_days", "sales_ever", "age_days", "history_length", "bought_before")

Ints = NDArray[np.int64]


class Activity:
    """Behaviours, ready to be counted by item and by (user, item).

    Args:
        user, item, time: (P,) int64 rows of users, rows of items, microseconds.
        items: how many items there are.
    """

    def __init__(self, user: Ints, item: Ints, time: Ints, items: int) -> None:
        nothing = np.zeros(len(item), np.int64)
        self._items = items
        self._pairs, place = np.unique(user * items + item, return_inverse=True)
        self._sales = Timeline(item, time, nothing)
        self._owned = Timeline(place.astype(np.int64), time, nothing)
        self._first = np.full(items, np.iinfo(np.int64).max)
        np.minimum.at(self._first, item, time)

    def scalars(self, user: Ints, item: Ints, time: Ints, known: Ints) -> dict[str, NDArray[np.float32]]:
        """`SCALARS` by name, (Q,) float32 each: ``log1p`` of the count, or of the age in days.

        Args:
            user: (Q,) rows of users; -1: a user without a behaviour.
            item: (Q,) rows of items.
            time: (Q,) microseconds.
            known: (Q,) how many behaviours of the user lie before the time.
        """
        values = (
            self._sales.count(item, time, within=30 * DAY),
            self._sales.count(item, time, within=7 * DAY),
            self._sales.count(item, time),
            np.maximum(time - np.minimum(self._first[item], time), 0) / DAY,
            known,
            self._owned.count(self._pair(user, item), time),
        )
        return {n: np.log1p(v.astype(np.float64)).astype(np.float32) for n, v in zip(SCALARS, values, strict=True)}

    def _pair(self, user: Ints, item: Ints) -> Ints:
        """Row of each pair among those that happened; -1 where it never did."""
        wanted = user * self._items + item
        if not len(self._pairs):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        return np.where((self._pairs[at] == wanted) & (user >= 0), at, -1).astype(np.int64)
