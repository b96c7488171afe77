from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoders.purchases import read_purchases
from moontide.errors import Misconfigured
from moontide.pit.impressions import make_impressions
from moontide.pit.in_memory import from_purchases
from moontide.pit.purchases import DAY
from ranking.splits import DEFAULT_DAYS, bounds, microseconds, said, split
from tests.unit.ranking.purchases_world import random_purchases, write_shop

pytestmark = pytest.mark.unit


def set_of(purchases):
    return from_purchases(purchases, make_impressions(purchases, variant="all", seed=0), 5, None)


def test_other_days_split_by_quantiles_and_the_parts_follow_in_time(tmp_path):
    write_shop(tmp_path)
    made = set_of(read_purchases(tmp_path))
    parts = split(made)
    times = [made.request_time[made.request[rows]] for rows in (parts.train, parts.validation, parts.test)]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert sum(map(len, times)) == len(made)
    small = split(made, budget=len(parts.train) // 2)
    users = made.request_user[made.request]
    whole = parts.train[np.isin(users[parts.train], users[small.train])]
    assert 0 < len(small.train) <= len(parts.train) // 2
    assert small.train.tolist() == whole.tolist(), "users are whole"


def test_asked_days_are_obeyed_or_refused():
    made = set_of(random_purchases())
    asked = ("1970-02-15", "1970-03-15", "1970-04-15")
    assert bounds(made, asked) == tuple(microseconds(day) for day in asked)
    with pytest.raises(Misconfigured, match="rising"):
        bounds(made, ("1970-03-01", "1970-02-01", "1970-04-01"))
    with pytest.raises(Misconfigured, match="three"):
        bounds(made, ("1970-03-01",))
    with pytest.raises(Misconfigured, match="ISO"):
        bounds(made, ("March", "1970-02-01", "1970-04-01"))
    with pytest.raises(Misconfigured, match=r"test, got none at the days 1970-02-15, 1980-01-01, 1981-01-01.*--set 'data\.days="):
        split(made, ("1970-02-15", "1980-01-01", "1981-01-01"))


def requests_at(days, after="2011-08-30"):
    """Impressions of one request each, so many days after a day."""
    made = set_of(random_purchases())
    rows = np.unique(made.request, return_index=True)[1][: len(days)]
    times = made.request_time.copy()
    times[made.request[rows]] = microseconds(after) + np.array(days, np.int64) * DAY
    columns = ("request", "item", "vector", "label", "label_row", "counts", "missing")
    return replace(
        made, request_time=times, **{name: getattr(made, name)[rows] for name in columns},
        labels={}, scalars={name: values[rows] for name, values in made.scalars.items()},
    )  # fmt: skip


def test_the_default_days_are_used_only_where_they_leave_out_little():
    default = tuple(microseconds(day) for day in DEFAULT_DAYS)
    assert bounds(requests_at([0] * 5 + [10] * 2 + [40] * 2 + [70] * 3)) == default, "a quarter is after the end"
    longer = requests_at([0] * 5 + [10] * 2 + [40] * 2 + [70, 80, 90, 100])
    assert bounds(longer) != default
    parts = split(longer)
    assert sum(map(len, (parts.train, parts.validation, parts.test))) == len(longer)


def test_few_times_with_many_requests_each_still_make_three_parts():
    for counts in ([1, 1, 1], [4, 4, 4], [20, 1, 1], [1, 1, 20], [1, 20, 1], [3, 3, 3, 3]):
        found = split(requests_at(np.repeat(np.arange(len(counts)), counts), after="2021-03-01"))
        assert min(map(len, (found.train, found.validation, found.test))) > 0
        assert sum(map(len, (found.train, found.validation, found.test))) == sum(counts)
    with pytest.raises(Misconfigured, match="3 times or more, got 2"):
        split(requests_at([0, 0, 1]))


def test_one_line_says_what_the_days_leave_out():
    made = requests_at([0] * 5 + [10] * 2 + [40] * 2 + [70])
    assert said(made, split(made)) == (
        "10 impressions at the days 2011-09-01, 2011-10-01, 2011-11-01: train 5, validation 2, test 2, unused 1"
    )
    fewer = split(made, budget=4)
    left = len(fewer.train)
    assert 0 < left < 5
    assert said(made, fewer).endswith(
        f": train {left}, validation 2, test 2, unused {6 - left} ({5 - left} beyond data.train_impressions)"
    )
    late = requests_at([0] * 5 + [10] * 2 + [40] * 2 + [70] * 3)
    assert "unused 3; warning: 3 come after the last day and are in no part; choose others" in said(late, split(late))
