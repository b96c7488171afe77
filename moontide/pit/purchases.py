"""Sales of known customers as arrays in time order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

DAY: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Purchases:
    """P purchases, each (user, item, time) once, ordered by (time, user, item).

    Attributes:
        user, item: (P,) int64, rows of `user_ids` and `item_ids`.
        basket: (P,) int64; a basket belongs to one user.
        time: (P,) int64, microseconds since 1970 in UTC.
        left_out: sales left out, by reason.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    basket: NDArray[np.int64]
    time: NDArray[np.int64]
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.item)
