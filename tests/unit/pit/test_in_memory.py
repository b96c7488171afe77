"""A training set made in memory: what each value means, by a loop over every purchase."""

from __future__ import annotations

import numpy as np
import pytest

from moontide import Embeddings, EmbeddingSpace
from moontide.pit.aggregates import SCALARS
from moontide.pit.impressions import make_impressions
from moontide.pit.in_memory import from_purchases
from moontide.pit.purchases import DAY, Purchases
from moontide.simtier import SimTierSpec, reference_tier_counts

pytestmark = pytest.mark.unit
SPACE = EmbeddingSpace("moon", 1, 8)


def shop(seed=0, users=12, items=15, baskets=150, days=80):
    """Random baskets; some users buy one item again."""
    draw = np.random.default_rng(seed)
    rows = set()
    for basket in range(baskets):
        user, time = int(draw.integers(users)), int(draw.integers(days)) * DAY
        rows |= {(time, user, int(item), basket) for item in draw.integers(0, items, size=int(draw.integers(1, 5)))}
    ordered = sorted({row[:3]: row for row in sorted(rows)}.values())
    time, user, item, basket = (np.array(column, np.int64) for column in zip(*ordered, strict=True))
    return Purchases(
        user, item, basket, time, tuple(f"u{a:02d}" for a in range(users)), tuple(f"i{a:02d}" for a in range(items)), {}
    )


def vectors_of(ids, seed=1):
    """Random vectors; every fourth item has none."""
    chosen = [item for at, item in enumerate(ids) if at % 4]
    return Embeddings.from_float(SPACE, np.random.default_rng(seed).normal(size=(len(chosen), 8)), ids=chosen)


@pytest.mark.parametrize("length", [1, 7, 1_000])
def test_every_value_follows_from_the_purchases_before_the_request(length):
    purchases = shop()
    impressions = make_impressions(purchases, variant="all", seed=3)
    vectors = vectors_of(purchases.item_ids)
    got = from_purchases(purchases, impressions, length, vectors, tiers=4)
    lines = list(zip(purchases.user.tolist(), purchases.time.tolist(), purchases.item.tolist(), strict=True))
    place = {item: row for row, item in enumerate(vectors.ids)}
    assert len(got) == len(impressions) > 100
    for request in range(len(impressions.user)):
        user, now = int(impressions.user[request]), int(impressions.time[request])
        before = sorted((t, i) for u, t, i in lines if u == user and t < now)
        span = slice(int(got.history_offsets[request]), int(got.history_offsets[request + 1]))
        assert got.known[request] == len(before)
        assert got.history_items[span].tolist() == [i for _, i in before][-length:]
        assert got.history_times[span].tolist() == [t for t, _ in before][-length:]
        expected = [place.get(purchases.item_ids[i], -1) for _, i in before][-length:]
        assert got.history_vectors[span].tolist() == expected
    spec = SimTierSpec(SPACE.id, tiers=4, length=length)
    for row in range(0, len(got), 17):
        request, item = int(got.request[row]), int(got.item[row])
        user, now = int(impressions.user[request]), int(impressions.time[request])
        sold = [t for _, t, i in lines if i == item and t < now]
        owned = [t for u, t, i in lines if i == item and u == user and t < now]
        counted = (
            sum(t >= now - 30 * DAY for t in sold), sum(t >= now - 7 * DAY for t in sold), len(sold),
            (now - min(sold)) / DAY if sold else 0, got.known[request], len(owned),
        )  # fmt: skip
        values = [got.scalars[name][row] for name in SCALARS]
        assert values == [np.float32(np.log1p(np.float64(v))) for v in counted]
        span = slice(int(got.history_offsets[request]), int(got.history_offsets[request + 1]))
        history = _picked(vectors, got.history_vectors[span], got.history_items[span])
        found = reference_tier_counts(_picked(vectors, got.vector[[row]], got.item[[row]]), history, spec)
        assert np.array_equal(found.counts[0], got.counts[row])
        assert found.missing[0] == got.missing[row]


def test_without_vectors_there_are_no_counts_and_every_behaviour_is_missing():
    purchases = shop(1)
    got = from_purchases(purchases, make_impressions(purchases, variant="new", seed=3), 5, None)
    assert got.counts.shape == (len(got), 0)
    assert got.vectors is None
    assert (got.vector == -1).all()
    assert (got.history_vectors == -1).all()
    assert np.array_equal(got.missing, np.diff(got.history_offsets)[got.request])


def _picked(vectors, rows, items):
    """Vectors of pointers, -1 as absent, under the items' rows as ids."""
    codes, scale = vectors.codes[rows].copy(), vectors.scale[rows].copy()
    codes[rows < 0], scale[rows < 0] = 0, 0
    return Embeddings.from_codes(SPACE, codes, scale, ids=[str(item) for item in items])
