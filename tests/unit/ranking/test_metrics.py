from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.study.resample import drawn_means
from ranking.metrics import Interval, auc, gauc, log_loss, paired_difference, user_aucs

pytestmark = pytest.mark.unit


def slow_auc(labels, scores):
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, x in zip(scores, labels, strict=True) if x for b, y in zip(scores, labels, strict=True) if not y
    ]  # fmt: skip
    return sum(won) / len(won) if won else float("nan")


ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(-3, 3)), max_size=60)


@given(ROWS)
def test_auc_and_gauc_equal_counting_pairs(rows):
    users = np.array([row[0] for row in rows], np.int64)
    labels = np.array([row[1] for row in rows], np.float32)
    scores = np.array([row[2] for row in rows], np.float32)
    assert auc(labels, scores) == pytest.approx(slow_auc(labels, scores), nan_ok=True)
    expected, weights = [], []
    for user in np.unique(users):
        mine = users == user
        value = slow_auc(labels[mine], scores[mine])
        if not np.isnan(value):
            expected.append(value)
            weights.append(int(mine.sum()))
    found = user_aucs(users, labels, scores)
    assert found.auc == pytest.approx(np.array(expected))
    assert found.impressions.tolist() == weights
    assert gauc(found) == pytest.approx(np.average(expected, weights=weights) if weights else float("nan"), nan_ok=True)


def test_all_scores_equal_is_one_half_exactly():
    labels = np.array([0, 1, 0, 1, 1], np.float32)
    assert auc(labels, np.zeros(5, np.float32)) == 0.5
    assert gauc(user_aucs(np.array([0, 0, 1, 1, 1]), labels, np.zeros(5, np.float32))) == 0.5


def test_order_of_rows_does_not_matter():
    draw = np.random.default_rng(0)
    users, labels, scores = draw.integers(9, size=300), draw.integers(2, size=300).astype(np.float32), draw.integers(5, size=300)
    order = draw.permutation(300)
    assert gauc(user_aucs(users, labels, scores)) == gauc(user_aucs(users[order], labels[order], scores[order]))


def test_log_loss_of_extreme_logits_is_finite_and_right():
    assert log_loss(np.array([1.0, 0.0]), np.array([0.0, 0.0])) == pytest.approx(np.log(2))
    assert log_loss(np.array([1.0, 0.0]), np.array([1e4, -1e4])) == 0.0
    assert log_loss(np.array([0.0]), np.array([1e4])) == pytest.approx(1e4)


def test_bootstrap_pairs_quantities():
    draw = np.random.default_rng(0)
    values, impressions = draw.normal(size=(1, 3, 50)), draw.integers(1, 20, size=50)
    both = drawn_means(impressions, np.concatenate([values, values + 1]), seed=1, draws=50)
    assert both[:, 1] - both[:, 0] == pytest.approx(np.ones(50))


def test_paired_difference_covers_the_truth_and_sees_no_gain_in_noise():
    draw = np.random.default_rng(3)
    base = draw.uniform(size=(4, 400))
    impressions = draw.integers(1, 20, size=400)
    gain = paired_difference(impressions, base, base + 0.02 + draw.normal(scale=0.05, size=base.shape), seed=0, draws=300)
    assert gain.low < 0.02 < gain.high
    assert not gain.has_zero
    noise = draw.normal(scale=0.05, size=(1, 400))
    nothing = paired_difference(
        impressions, base[:1], base[:1] + noise - np.average(noise[0], weights=impressions), seed=0, draws=300
    )
    assert nothing.has_zero


def test_an_unknown_interval_has_zero():
    assert Interval(1.0, float("nan"), float("nan")).has_zero
    assert not Interval(-1.0, -2.0, -0.5).has_zero
