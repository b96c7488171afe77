"""Scalars of an impression that follow from behaviours: how much an item sells, how old it is, what the user did before.

Every value counts what lies strictly before the impression. Q queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.pit.arrays import open_arrays, save_arrays
from moontide.pit.purchases import DAY
from moontide.pit.timeline import Timeline

#: In this order. `sales_*` count behaviours of all users on the item; `age_days` is the time since the item's first one;
#: `history_length` counts the user's behaviours and `bought_before` those on this item.
SCALARS: Final = ("sales_30_days", "sales_7_days", "sales_ever", "age_days", "history_length", "bought_before")

Ints = NDArray[np.int64]


class Activity:
    """Behaviours by user, by item and by (user, item), ready to be sliced and counted.

    Args:
        user, item, time: (P,) int64 rows of users, rows of items, microseconds.
        items: how many items there are.

    Attributes:
        by_user: behaviours of each user, `values` are the items.
    """

    def __init__(self, user: Ints, item: Ints, time: Ints, items: int) -> None:
        self.by_user = Timeline(user, time, item)
        self._by_item = Timeline(item, time)
        self._by_pair = Timeline(user * items + item, time)
        self._items = items

    def save(self, folder: Path) -> None:
        """Write everything as arrays that `open` maps into memory."""
        for name, timeline in (("user", self.by_user), ("item", self._by_item), ("pair", self._by_pair)):
            save_arrays(folder / name, timeline.arrays(), {"items": self._items})

    @classmethod
    def open(cls, folder: Path) -> Activity:
        """What `save` wrote, read-only.

        Raises:
            Misconfigured: nothing there.
        """
        made = cls.__new__(cls)
        found = [open_arrays(folder / name) for name in ("user", "item", "pair")]
        made.by_user, made._by_item, made._by_pair = (Timeline.of_arrays(arrays) for arrays, _ in found)
        made._items = int(found[0][1]["items"])
        return made

    def scalars(self, user: Ints, item: Ints, time: Ints, known: Ints) -> dict[str, NDArray[np.float32]]:
        """`SCALARS` by name, (Q,) float32 each: ``log1p`` of the count, or of the age in days.

        Args:
            user: (Q,) rows of users; negative: a user without a behaviour.
            item: (Q,) rows of items.
            time: (Q,) microseconds.
            known: (Q,) how many behaviours of the user lie before the time.
        """
        owned = self._by_pair.count(user * self._items + item, time)
        values = (
            self._by_item.count(item, time, within=30 * DAY),
            self._by_item.count(item, time, within=7 * DAY),
            self._by_item.count(item, time),
            self._by_item.since_first(item, time) / DAY,
            known,
            np.where(user >= 0, owned, 0),
        )
        return {n: np.log1p(v.astype(np.float64)).astype(np.float32) for n, v in zip(SCALARS, values, strict=True)}
