"""A small shop: a folder in the documented layout, and purchases as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moontide.pit.purchases import DAY, Purchases


def purchases_of(rows, users=None, items=None):
    """Purchases of (user, item, basket, time) rows."""
    rows = sorted(set(rows), key=lambda row: (row[3], row[0], row[1]))
    user, item, basket, time = (np.array([row[at] for row in rows], np.int64) for at in range(4))
    users = users or int(user.max()) + 1
    items = items or int(item.max()) + 1
    names = tuple(f"u{at}" for at in range(users)), tuple(f"i{at}" for at in range(items))
    return Purchases(user, item, basket, time, *names, {})


def random_purchases(seed=0, users=30, items=40, baskets=400, days=120):
    draw = np.random.default_rng(seed)
    popularity = draw.dirichlet(np.full(items, 0.7))
    rows = []
    for basket in range(baskets):
        user, time = int(draw.integers(users)), int(draw.integers(days)) * DAY
        for item in set(draw.choice(items, size=int(draw.integers(1, 7)), p=popularity).tolist()):
            rows.append((user, item, basket, time))
    return purchases_of(rows, users, items)


def write_shop(folder: Path, seed=0, **kwargs) -> Purchases:
    """``items.csv`` and ``transactions.parquet`` of a random shop whose days are not Online Retail's."""
    made = random_purchases(seed, **kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{item_id},{'RED' if at % 2 else 'BLUE'} THING {at}" for at, item_id in enumerate(made.item_ids)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *lines]) + "\n")
    frame = pd.DataFrame(
        {
            "basket_id": made.basket.astype(str),
            "user_id": [made.user_ids[at] for at in made.user],
            "item_id": [made.item_ids[at] for at in made.item],
            "title": [f"THING {at}" for at in made.item],
            "event_timestamp": pd.to_datetime(made.time + 20_000 * DAY, unit="us"),
        }
    )
    frame.to_parquet(folder / "transactions.parquet")
    return made
