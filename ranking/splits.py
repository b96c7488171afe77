"""Time split: what trains, what chooses settings, what is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit.training_set import TrainingSet

#: Months of Online Retail; `QUANTILES` of the requests' times are used where they do not fit the data.
DEFAULT_DAYS: Final = ("2011-09-01", "2011-10-01", "2011-11-01")
QUANTILES: Final = (0.7, 0.85)

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the impressions; `times` are the three bounds in microseconds since 1970: validation, test, end."""

    train: Ints
    validation: Ints
    test: Ints
    times: tuple[int, int, int]


def microseconds(day: str) -> int:
    """Start of a day, or a moment, in ISO 8601; without a zone it is UTC.

    Raises:
        Misconfigured: not ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(day)
    except ValueError as error:
        raise Misconfigured(f"day: expected ISO 8601 such as 2011-09-01, got {day!r}") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def bounds(data: TrainingSet, days: Sequence[str] = ()) -> tuple[int, int, int]:
    """`days`, three of them, as times; none: `DEFAULT_DAYS` where all parts get requests, else time quantiles of the requests.

    Raises:
        Misconfigured: days that do not rise, or too few requests for a split.
    """
    times = data.request_time[np.unique(data.request)]
    if days:
        chosen = tuple(microseconds(day) for day in days)
        if len(chosen) != 3 or not chosen[0] < chosen[1] < chosen[2]:
            raise Misconfigured(f"split: expected three rising days, got {list(days)}")
        return chosen[0], chosen[1], chosen[2]
    first, second, last = (microseconds(day) for day in DEFAULT_DAYS)
    if all(((times >= low) & (times < high)).any() for low, high in ((0, first), (first, second), (second, last))):
        return first, second, last
    if len(np.unique(times)) < 3:
        raise Misconfigured(f"split: expected requests at 3 times or more, got {len(np.unique(times))}; give more sales")
    low, high = (int(np.quantile(times, share)) for share in QUANTILES)
    return low, high, int(times.max()) + 1


def split(data: TrainingSet, days: Sequence[str] = (), *, budget: int = 0, seed: int = 0) -> Split:
    """Rows of each part. Training rows beyond `budget` (0: none) are left out, whole users at a time, drawn under `seed`.

    Raises:
        Misconfigured: a part without an impression.
    """
    edges = bounds(data, days)
    time = data.request_time[data.request]
    parts = [np.flatnonzero(time < edges[0])]
    parts += [np.flatnonzero((time >= low) & (time < high)) for low, high in ((edges[0], edges[1]), (edges[1], edges[2]))]
    for name, rows in zip(("train", "validation", "test"), parts, strict=True):
        if not len(rows):
            raise Misconfigured(f"split: expected impressions in {name}, got none; choose other days")
    return Split(_within(data, parts[0], budget, seed), parts[1], parts[2], edges)


def _within(data: TrainingSet, rows: Ints, budget: int, seed: int) -> Ints:
    if not budget or len(rows) <= budget:
        return rows
    user = data.request_user[data.request[rows]]
    names, counts = np.unique(user, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fits = np.cumsum(counts[order]) <= budget
    kept = names[order[fits]] if fits.any() else names[order[:1]]
    return rows[np.isin(user, kept)]
