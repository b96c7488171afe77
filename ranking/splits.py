"""Time split: what trains, what chooses settings, what is reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit.card import shown
from moontide.pit.training_set import TrainingSet

#: Months of Online Retail; `QUANTILES` of the requests' times are used where they do not fit the data.
DEFAULT_DAYS: Final = ("2011-09-01", "2011-10-01", "2011-11-01")
QUANTILES: Final = (0.7, 0.85)
#: Share of the requests after the end beyond which `DEFAULT_DAYS` do not fit; they leave out November and December, a fifth.
LATE_REQUESTS: Final = 0.25
#: Share of the impressions after the end beyond which `said` warns.
LATE_IMPRESSIONS: Final = 0.1
_ADVICE: Final = (
    "choose others, or none for days that fit: --days VALIDATION TEST END of ranking.gains, "
    """--set 'data.days=["VALIDATION", "TEST", "END"]' or --set 'data.days=[]' elsewhere"""
)

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
        raise Misconfigured(f"day: expected ISO 8601 such as 2011-09-01, got {day!r}; {_ADVICE}") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def bounds(data: TrainingSet, days: Sequence[str] = ()) -> tuple[int, int, int]:
    """`days`, three of them, as times; none: `DEFAULT_DAYS` where all parts get requests and at most `LATE_REQUESTS` of them come
    after the end, else time quantiles of the requests, moved where a part would get none.

    Raises:
        Misconfigured: days that do not rise, or requests at fewer than 3 times.
    """
    times = data.request_time[np.unique(data.request)]
    if days:
        chosen = tuple(microseconds(day) for day in days)
        if len(chosen) != 3 or not chosen[0] < chosen[1] < chosen[2]:
            raise Misconfigured(f"split: expected three rising days, got {list(days)}; {_ADVICE}")
        return chosen[0], chosen[1], chosen[2]
    first, second, last = (microseconds(day) for day in DEFAULT_DAYS)
    fit = all(((times >= low) & (times < high)).any() for low, high in ((0, first), (first, second), (second, last)))
    if fit and (times >= last).mean() <= LATE_REQUESTS:
        return first, second, last
    moments = np.unique(times)
    if len(moments) < 3:
        raise Misconfigured(f"split: expected requests at 3 times or more, got {len(moments)}; give more sales")
    low, high = (int(np.quantile(times, share)) for share in QUANTILES)
    # Many requests of one time move a quantile to it: each part keeps a time all the same.
    low = int(np.clip(low, moments[1], moments[-2]))
    high = int(np.clip(high, moments[np.searchsorted(moments, low) + 1], moments[-1]))
    return low, high, int(moments[-1]) + 1


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
            raise Misconfigured(
                f"split: expected impressions in {name}, got none at the days {_days(edges)}; "
                f"the data has {_days((time.min(), time.max()), ' to ') if len(time) else 'none'}: {_ADVICE}"
            )
    return Split(_within(data, parts[0], budget, seed), parts[1], parts[2], edges)


def said(data: TrainingSet, found: Split) -> str:
    """One line: the days, the impressions of each part and of none, and a warning where many come after the end."""
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    unused = len(data) - sum(map(len, parts.values()))
    late = int((data.request_time[data.request] >= found.times[2]).sum())
    text = f"{len(data)} impressions at the days {_days(found.times)}: "
    text += ", ".join(f"{name} {len(rows)}" for name, rows in parts.items()) + f", unused {unused}"
    if unused > late:
        text += f" ({unused - late} beyond data.train_impressions)"
    if late > LATE_IMPRESSIONS * len(data):
        text += f"; warning: {late} come after the last day and are in no part; {_ADVICE}"
    return text


def _days(times: Iterable[int], between: str = ", ") -> str:
    return between.join(shown(int(time)).removesuffix("+00:00").removesuffix("T00:00:00") for time in times)


def _within(data: TrainingSet, rows: Ints, budget: int, seed: int) -> Ints:
    if not budget or len(rows) <= budget:
        return rows
    user = data.request_user[data.request[rows]]
    names, counts = np.unique(user, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fits = np.cumsum(counts[order]) <= budget
    kept = names[order[fits]] if fits.any() else names[order[:1]]
    return rows[np.isin(user, kept)]
