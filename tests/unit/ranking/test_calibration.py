from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.metrics import calibration, calibration_error, entropy, log_loss, normalised_entropy, probabilities, segments

pytestmark = pytest.mark.unit

LOGITS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=60)


def logit(share):
    return math.log(share / (1 - share))


def test_knowing_the_share_of_positives_alone_has_normalised_entropy_one_and_perfect_calibration():
    labels = np.array([1, 0, 0, 0, 1, 0, 0, 0], np.float32)
    logits = np.full(8, logit(0.25), np.float32)
    assert normalised_entropy(labels, logits) == pytest.approx(1.0, abs=1e-6)
    assert calibration(labels, logits) == pytest.approx(1.0, abs=1e-6)
    assert calibration_error(segments(labels, logits)) == pytest.approx(0.0, abs=1e-6)


def test_normalised_entropy_by_hand():
    labels, logits = np.array([1.0, 0.0]), np.array([logit(0.8), logit(0.4)])
    assert normalised_entropy(labels, logits) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2 / math.log(2))


def test_twice_the_share_is_calibration_two():
    labels = np.array([1, 0, 0, 0], np.float32)
    assert calibration(labels, np.full(4, logit(0.5))) == pytest.approx(2.0)


@pytest.mark.parametrize("labels", [[], [0.0], [1.0], [0.0, 0.0], [1.0, 1.0, 1.0]])
def test_one_label_or_no_row_is_nan_where_two_are_needed_and_never_raises(labels):
    y = np.array(labels)
    logits = np.linspace(-1, 1, len(y))
    assert math.isnan(normalised_entropy(y, logits))
    assert math.isnan(calibration(y, logits)) == (not y.any())
    assert math.isnan(log_loss(y, logits)) == (not len(y))
    assert math.isnan(calibration_error(segments(y, logits))) == (not len(y))


def test_extreme_logits_have_probabilities():
    assert probabilities(np.array([-1e5, -40.0, 0.0, 1e5])).tolist() == [0.0, math.exp(-40) / (1 + math.exp(-40)), 0.5, 1.0]


def test_entropy_of_the_ends_is_zero_and_of_nothing_nan():
    assert entropy(np.array([0.0, 1.0, 0.5])).tolist() == [0.0, 0.0, pytest.approx(math.log(2))]
    assert math.isnan(entropy(float("nan")))


@given(LOGITS, st.integers(1, 12))
def test_segments_hold_every_row_once_by_rising_score_and_keep_equal_scores_together(rows, count):
    labels = np.array([row[0] for row in rows], np.float32)
    logits = np.array([row[1] for row in rows], np.float32)
    found = segments(labels, logits, count)
    assert len(found) <= count
    assert sum(each.rows for each in found) == len(rows)
    assert sum(each.rows * each.observed for each in found) == pytest.approx(labels.sum())
    assert sum(each.rows * each.predicted for each in found) == pytest.approx(probabilities(logits).sum())
    ordered, at, seen = np.sort(logits), 0, set()
    for each in found:
        mine = ordered[at : at + each.rows]
        assert each.predicted == pytest.approx(probabilities(mine).mean())
        assert not seen & set(mine.tolist())
        seen |= set(mine.tolist())
        at += each.rows


def test_segments_without_ties_are_equal_in_size():
    logits = np.random.default_rng(0).permutation(1000).astype(np.float32)
    assert [each.rows for each in segments(np.zeros(1000), logits)] == [100] * 10


def test_calibration_error_sees_what_the_mean_hides():
    labels = np.repeat([1.0, 0.0, 1.0, 0.0], 50)
    logits = np.concatenate([np.full(100, logit(0.3)), np.full(100, logit(0.7))]) + np.linspace(0, 1e-6, 200)
    assert calibration(labels, logits) == pytest.approx(1.0, abs=1e-5)
    wrong = segments(
        np.concatenate([np.ones(50), np.zeros(50), np.ones(50), np.zeros(50)]), np.repeat([logit(0.3), logit(0.7)], 100)
    )
    assert calibration_error(wrong) == pytest.approx(0.2)
