"""What the examples of a run are: the card of their training set, and what lies in each part of the split."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moontide.pit.card import shown
from ranking.examples import Examples


def card_of(examples: Examples) -> dict[str, Any]:
    """The card of the data, with impressions, positives, users and time range of each part, and where the parts begin and end."""
    part = examples.split
    parts = {"train": part.train, "validation": part.validation, "test": part.test}
    return {
        "items": len(examples.data.item_ids),
        **examples.data.card,
        "split": [shown(moment) for moment in part.times],
        **{name: _part(examples, rows) for name, rows in parts.items()},
    }


def _part(examples: Examples, rows: NDArray[np.int64]) -> dict[str, Any]:
    requests = examples.data.request[rows]
    times = examples.data.request_time[requests]
    return {
        "impressions": len(rows),
        "positives": int(examples.data.label[rows].sum()),
        "users": len(np.unique(examples.users(rows))),
        "without_history": int((examples.data.known[requests] == 0).sum()),
        "first": shown(int(times.min())),
        "last": shown(int(times.max())),
    }
