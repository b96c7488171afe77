"""Recalibration on validation days: calibrated there, and no pair of scores changes places anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ranking.evaluation import WHOLE, evaluate
from ranking.metrics import auc, calibration, gauc, log_loss, probabilities, user_aucs
from ranking.recalibration import Recalibration, fit_recalibration, recalibrated

pytestmark = pytest.mark.unit


def drawn(seed, count=4_000, slope=0.6, intercept=-0.4):
    """Labels that follow ``slope * logit + intercept``."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-1.5, 1.2, count).astype(np.float32)
    labels = (draw.random(count) < probabilities(slope * logits + intercept)).astype(np.float32)
    return labels, logits


def test_it_finds_what_the_labels_were_drawn_with_and_is_the_best_of_a_grid():
    labels, logits = drawn(0, 100_000)
    found = fit_recalibration(labels, logits)
    assert found.slope == pytest.approx(0.6, abs=0.02) and found.intercept == pytest.approx(-0.4, abs=0.04)
    least = log_loss(labels, found(logits))
    for slope in (0.9, 0.99, 1.01, 1.1):
        for shift in (-0.1, 0.0, 0.1):
            other = Recalibration(found.slope * slope, found.intercept + shift)
            assert least < log_loss(labels, other(logits))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.booleans(), st.integers(-40, 40)), min_size=2, max_size=60))
# The best slope is zero but for rounding.
@example(rows=[(False, 18), (False, 21), (False, -22), (True, -14), (True, -24), (True, 32), (False, -25)])
def test_calibration_is_one_where_it_was_fitted_and_the_order_stays(rows):
    labels = np.array([row[0] for row in rows], np.float32)
    logits = np.array([row[1] / 8 for row in rows], np.float32)
    found = fit_recalibration(labels, logits)
    if labels.all() or not labels.any():
        assert found is None
        return
    assert found.slope > 0 and math.isfinite(found.slope) and math.isfinite(found.intercept)
    assert calibration(labels, found(logits)) == pytest.approx(1.0, abs=1e-6)
    assert log_loss(labels, found(logits)) <= log_loss(labels, logits) + 1e-12
    assert auc(labels, found(logits)) == auc(labels, logits)


@pytest.mark.parametrize(
    ("labels", "logits"),
    [([0, 1, 0, 1], [-1, 2, -3, 4]), ([1, 0, 1, 0], [-1, 2, -3, 4]), ([1, 0, 0, 0], [3, 3, 3, 3])],
    ids=["parted", "upside down", "all alike"],
)
def test_without_a_finite_slope_above_zero_only_the_intercept_is_fitted(labels, logits):
    labels, logits = np.array(labels, np.float32), np.array(logits, np.float32)
    found = fit_recalibration(labels, logits)
    assert found.slope == 1.0 and calibration(labels, found(logits)) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("labels", [[], [0.0], [1.0, 1.0]])
def test_without_both_labels_there_is_none(labels):
    labels = np.array(labels, np.float32)
    assert fit_recalibration(labels, labels) is None
    assert recalibrated((labels, labels), (labels, labels), {}) is None


def test_a_run_says_what_it_changed_and_auc_and_gauc_are_bit_equal():
    validation, test = drawn(1, intercept=-1.2), drawn(2, intercept=-1.2)
    users, some = np.arange(4_000) % 37, np.arange(4_000) % 3 == 0
    said = recalibrated(validation, test, {"new_items": some, "none": np.zeros(4_000, bool)})
    found = Recalibration(said["slope"], said["intercept"])
    labels, logits = test
    before = evaluate(labels, logits, users, {"new_items": some})
    after = evaluate(labels, found(logits), users, {"new_items": some})
    for name in (WHOLE, "new_items"):
        assert (after[name]["auc"], after[name]["gauc"]) == (before[name]["auc"], before[name]["gauc"])
        for when, figures in (("before", before), ("after", after)):
            assert said[when]["test"][name] == {key: figures[name][key] for key in said[when]["test"][name]}
    assert np.array_equal(user_aucs(users, labels, found(logits)).auc, user_aucs(users, labels, logits).auc)
    assert gauc(user_aucs(users, labels, found(logits))) == gauc(user_aucs(users, labels, logits))
    assert said["after"]["validation"]["calibration"] == pytest.approx(1.0, abs=1e-9)
    assert abs(said["after"]["test"][WHOLE]["calibration"] - 1) < abs(said["before"]["test"][WHOLE]["calibration"] - 1)
    assert math.isnan(said["after"]["test"]["none"]["log_loss"])
