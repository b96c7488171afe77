"""Impressions made from baskets: what was bought, and negatives matched to it by popularity.

A request is one basket: one user at one time, the time of the basket's first line. Its positives are the basket's items.
Per positive, `ratio` negatives are drawn independently, item j with probability proportional to its sales in
``[time - window, time)``, among the items that are not in the basket and, in the variant ``new``, that the user has not
bought before. A positive without a sale in that window could never have been a negative: a model would know its label
from its popularity alone, so it is left out and counted (``unmatched``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit.purchases import DAY, Purchases
from moontide.pit.timeline import Timeline

RATIO: Final = 4
WINDOW: Final = 30 * DAY
VARIANTS: Final = ("new", "all")
ROUNDS: Final = 64

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Impressions:
    """R requests in time order, and I impressions, those of one request together.

    Attributes:
        user, time: (R,) int64 of each request.
        request, item: (I,) int64; `request` rises.
        label: (I,) float32, 1 bought, 0 not.
        left_out: what was left out, by reason: purchases (``first_days``, ``bought_before``, ``unmatched``, and ``folded``, the
            further lines of an item in one basket), which with the positives add up to all purchases; and negatives that
            were not drawn (``negative_not_found``).
    """

    user: Ints
    time: Ints
    request: Ints
    item: Ints
    label: NDArray[np.float32]
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.item)

    @property
    def offsets(self) -> Ints:
        """(R + 1,) where each request's impressions start."""
        return np.searchsorted(self.request, np.arange(len(self.user) + 1)).astype(np.int64)


def make_impressions(purchases: Purchases, *, variant: str, seed: int, ratio: int = RATIO, window: int = WINDOW) -> Impressions:
    """Positives and negatives of every basket that starts `window` or more after the first sale.

    Args:
        purchases: at least one.
        variant: one of `VARIANTS`.
        seed: of the draw.
        ratio: negatives drawn per positive, from 0.
        window: microseconds of sales that the draw follows.

    Raises:
        Misconfigured: an unknown variant.
    """
    if variant not in VARIANTS:
        raise Misconfigured(f"variant: expected one of {VARIANTS}, got {variant!r}")
    user, time, rows, items = _requests(purchases)
    total = len(purchases.item_ids)
    owned = Timeline(purchases.user * total + purchases.item, purchases.time, np.zeros(len(purchases), np.int64))
    sales = Timeline(purchases.item, purchases.time, np.zeros(len(purchases), np.int64))
    left_out: dict[str, int] = {}
    keep = time[rows] >= purchases.time[0] + window
    left_out["first_days"] = int((~keep).sum())
    if variant == "new":
        bought_before = owned.count(user[rows] * total + items, time[rows]) > 0
        left_out["bought_before"] = int((keep & bought_before).sum())
        keep &= ~bought_before
    matched = sales.count(items, time[rows], within=window) > 0
    left_out["unmatched"] = int((keep & ~matched).sum())
    left_out["folded"] = len(purchases) - len(items)
    keep &= matched
    positives, wanted = items[keep], rows[keep]
    basket_keys = np.unique(rows * total + items)
    asked = np.repeat(wanted, ratio)
    recent = _recent(purchases, time, window)
    drawn, ok = _draw(purchases, asked, (user, time), recent, (basket_keys, owned if variant == "new" else None), seed)
    left_out["negative_not_found"] = int((~ok).sum())
    return _ordered(user, time, (wanted, positives), (asked[ok], drawn[ok]), left_out)


def _requests(purchases: Purchases) -> tuple[Ints, Ints, Ints, Ints]:
    """User and time of each request in time order; request and item of each basket line, each pair once."""
    baskets, first, index = np.unique(purchases.basket, return_index=True, return_inverse=True)
    # Purchases are in time order, so the first line met is the basket's earliest.
    order = np.argsort(first, kind="stable")
    place = np.empty(len(baskets), np.int64)
    place[order] = np.arange(len(baskets))
    total = len(purchases.item_ids)
    pairs = np.unique(place[index] * total + purchases.item)
    return purchases.user[first[order]], purchases.time[first[order]], pairs // total, pairs % total


def _recent(purchases: Purchases, time: Ints, window: int) -> tuple[Ints, Ints]:
    """First and one past the last sale in the window before each time."""
    low = np.searchsorted(purchases.time, time - window, side="left")
    return low.astype(np.int64), np.searchsorted(purchases.time, time, side="left").astype(np.int64)


def _draw(
    purchases: Purchases,
    asked: Ints,
    requests: tuple[Ints, Ints],
    recent: tuple[Ints, Ints],
    excluded: tuple[Ints, Timeline | None],
    seed: int,
) -> tuple[Ints, NDArray[np.bool_]]:
    """An item for each asked request; by rejection, so the accepted ones follow the stated distribution exactly."""
    generator = np.random.default_rng(seed)
    total = len(purchases.item_ids)
    (user, time), (low, high) = requests, recent
    drawn, ok = np.zeros(len(asked), np.int64), np.zeros(len(asked), bool)
    basket_keys, owned = excluded
    for _ in range(ROUNDS):
        open_rows = np.flatnonzero(~ok)
        if not len(open_rows):
            break
        request = asked[open_rows]
        item = purchases.item[generator.integers(low[request], high[request])]
        good = ~_contains(basket_keys, request * total + item)
        if owned is not None:
            good &= owned.count(user[request] * total + item, time[request]) == 0
        drawn[open_rows[good]], ok[open_rows[good]] = item[good], True
    return drawn, ok


def _contains(ordered: Ints, keys: Ints) -> NDArray[np.bool_]:
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.asarray(ordered[at] == keys)


def _ordered(
    user: Ints, time: Ints, positives: tuple[Ints, Ints], negatives: tuple[Ints, Ints], left_out: Mapping[str, int]
) -> Impressions:
    request = np.concatenate([positives[0], negatives[0]])
    item = np.concatenate([positives[1], negatives[1]])
    label = np.repeat(np.array([1, 0], np.float32), [len(positives[0]), len(negatives[0])])
    order = np.lexsort((item, label, request))
    return Impressions(user, time, request[order], item[order], label[order], left_out)
