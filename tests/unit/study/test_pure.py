from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.study.powerlaw import fit_power_law
from encoders.study.resample import drawn_means
from encoders.study.slopes import fit_slope, line
from encoders.study.tables import effect, effects, markdown, number, span, student
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

X = np.array([1e3, 3e3, 1e4, 3e4, 1e5, 3e5])


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 0.9), st.integers(5, 120), st.sampled_from([0.0, 0.05, 0.2]))
def test_a_power_law_without_noise_is_recovered(a, hundredths, c):
    b = hundredths / 100
    error = a * (X / X[0]) ** -b + c
    found = fit_power_law(X, error, seed=0, draws=50)
    assert found.fits, found.why
    assert found(X) == pytest.approx(error, abs=1e-3)
    assert found.b == pytest.approx(b, abs=0.011)
    assert found.b_low <= b + 0.011 and found.b_high >= b - 0.011


def test_interval_of_the_exponent_covers_the_truth():
    draw = np.random.default_rng(0)
    x = np.tile(X[:4], 3)
    covered = 0
    for seed in range(40):
        error = 0.5 * (x / X[0]) ** -0.3 + draw.normal(scale=0.01, size=len(x))
        found = fit_power_law(x, error, seed=seed, draws=200)
        covered += found.b_low - 0.01 <= 0.3 <= found.b_high + 0.01
    assert covered >= 34


def test_noise_and_flat_curves_are_not_called_power_laws():
    draw = np.random.default_rng(1)
    assert not fit_power_law(X, 0.3 + draw.normal(scale=0.02, size=6), seed=0).fits
    flat = fit_power_law(X, np.full(6, 0.3), seed=0)
    assert not flat.fits
    assert flat.r2 == 0.0


def test_a_curve_with_a_minimum_is_told_by_r2():
    found = fit_power_law(np.tile(X[:5], 2), np.tile([0.4, 0.2, 0.1, 0.2, 0.4], 2), seed=0)
    assert not found.fits
    assert "R2" in found.why


def test_too_few_points_are_refused_or_have_no_interval():
    with pytest.raises(Misconfigured, match="3 or more"):
        fit_power_law(np.array([1.0, 2.0]), np.array([0.2, 0.1]), seed=0)
    with pytest.raises(Misconfigured, match="positive"):
        fit_power_law(np.array([0.0, 1.0, 2.0]), np.array([0.3, 0.2, 0.1]), seed=0)
    with pytest.raises(Misconfigured, match="finite"):
        fit_power_law(np.array([3.0, 1.0, 2.0]), np.array([np.nan, 0.2, 0.1]), seed=0)


def simulated(rate, noise, encoders=8, seeds=3, users=200, seed=0):
    draw = np.random.default_rng(seed)
    recall = draw.uniform(0.4, 0.9, size=encoders)
    users_ = draw.normal(scale=noise, size=(1, 1, users))
    gains = rate * (recall[:, None, None] - 0.4) + users_ + draw.normal(scale=noise, size=(encoders, seeds, users))
    return recall, gains, draw.integers(1, 30, size=users)


def test_a_slope_is_recovered_and_its_intervals_nest():
    recall, gains, impressions = simulated(0.1, 0.02)
    found = fit_slope(recall, gains, impressions, seed=0, draws=300)
    assert found.slope == pytest.approx(0.1, abs=0.02)
    assert found.low < 0.1 < found.high
    assert found.wide_high - found.wide_low > found.high - found.low
    assert not found.contains_zero
    assert "excludes zero" in found.verdict
    assert found.gains == pytest.approx(100 * np.average(gains.mean(axis=1), axis=1, weights=impressions))


def test_no_slope_is_said_to_be_none():
    found = fit_slope(*simulated(0.0, 0.05), seed=0, draws=300)
    assert found.contains_zero
    assert "contains zero" in found.verdict


def test_what_cannot_be_fitted_is_refused():
    recall, gains, impressions = simulated(0.1, 0.02)
    with pytest.raises(Misconfigured, match="6 encoders"):
        fit_slope(recall[:5], gains[:5], impressions, seed=0)
    with pytest.raises(Misconfigured, match="3 seeds"):
        fit_slope(recall, gains[:, :2], impressions, seed=0)
    with pytest.raises(Misconfigured, match="different recall"):
        fit_slope(np.full(8, 0.5), gains, impressions, seed=0)


def test_line():
    assert line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx((2.0, 1.0))


def test_drawn_means_agree_with_the_weighted_mean_of_one_user_and_seed():
    found = drawn_means(np.array([7]), np.array([[[0.25]], [[0.5]]]), seed=0, draws=3)
    assert found.tolist() == [[0.25, 0.5]] * 3


def test_effect_is_paired_over_the_seeds_that_both_have():
    base = {0: 0.50, 1: 0.60, 2: 0.70, 9: 0.1}
    flipped = {0: 0.52, 1: 0.62, 2: 0.72}
    found = effect(base, flipped)
    assert found is not None
    assert found.seeds == 3
    assert found.difference == pytest.approx(2.0)
    assert found.spread == pytest.approx(10.0)
    assert found.clear
    assert effect(base, {5: 1.0}) is None
    single = effect({0: 0.5}, {0: 0.6})
    assert single is not None and np.isnan(single.spread) and not single.clear


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_effect_interval_is_students(pairs):
    base, flipped = ({at: pair[side] for at, pair in enumerate(pairs)} for side in (0, 1))
    found = effect(base, flipped)
    differences = 100 * np.array([b - a for a, b in pairs])
    half = student(len(pairs)) * differences.std(ddof=1) / len(pairs) ** 0.5
    assert found is not None
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=1e-9)


def test_students_quantiles_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 17):
        assert student(count) == pytest.approx(stats.t.ppf(0.975, count - 1), rel=2e-3)


def test_effects_keep_measures_of_both_sides():
    found = effects({0: {"r": 0.5, "x": 1.0}, 1: {"r": 0.6}}, {0: {"r": 0.5}, 1: {"r": 0.7, "y": 0.1}})
    assert list(found) == ["r"]
    assert effects({}, {}) == {}


def test_tables_are_markdown():
    assert markdown(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    assert markdown(["a"], []) == "| a |\n| --- |\n"
    assert (number(float("nan")), number(1.234, sign=True), span(float("nan"), 1), span(-1, 2)) == (
        "-",
        "+1.23",
        "-",
        "-1.00 to +2.00",
    )
