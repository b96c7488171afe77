from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking import resampling
from ranking.evaluation import evaluate
from ranking.metrics import auc
from ranking.resampling import MEASURES, PairCounts, Resampler, mean_of, paired
from ranking.run_file import TestRows

pytestmark = pytest.mark.unit

ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(-2, 2)), max_size=40)


@given(ROWS, st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_auc_under_a_draw_equals_repeating_every_row(rows, times):
    users = np.array([row[0] for row in rows], np.int64)
    labels = np.array([row[1] for row in rows], np.float32)
    scores = np.array([row[2] for row in rows], np.float32)
    repeats = np.array(times, np.int64)
    found = PairCounts.of(users, labels, scores).auc(repeats)
    again = np.repeat(np.arange(len(rows)), repeats[users]) if rows else np.zeros(0, np.int64)
    assert found == pytest.approx(auc(labels[again], scores[again]), nan_ok=True)


def rows_of(users, labels, **slices):
    return TestRows(users, np.zeros(len(users), np.int64), labels, slices)


def shop(users=60, each=20, seed=0):
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(users) * 7 + 3, each)
    label = (draw.random(users * each) < 0.3).astype(np.float32)
    return rows_of(user, label, some=draw.random(users * each) < 0.4), draw


def test_every_figure_of_every_draw_is_the_one_of_the_repeated_rows():
    rows, draw = shop(12, 9)
    logits = (rows.label + draw.normal(size=108)).astype(np.float32)
    resampler = Resampler(rows, draws=5, seed=3)
    found = resampler.figures(logits)
    assert set(found) == {f"{name} {measure}" for name in ("whole", "some") for measure in MEASURES}
    _, index = np.unique(rows.user, return_inverse=True)
    for at in range(6):
        drawn = np.ones(12, int) if at == 0 else np.bincount(np.random.default_rng([3, at]).integers(12, size=12), minlength=12)
        copies = [np.flatnonzero(index == user) for user in range(12) for _ in range(drawn[user])]
        again = np.concatenate(copies)
        # Copies of a user are users of their own.
        user = np.repeat(np.arange(len(copies)), [len(copy) for copy in copies])
        expected = evaluate(rows.label[again], logits[again], user, {"some": rows.slices["some"][again]})
        for name, values in found.items():
            part, measure = name.split()
            assert values[at] == pytest.approx(expected[part][measure], nan_ok=True), (name, at)


def test_blocks_do_not_change_the_draws(monkeypatch):
    rows, draw = shop(10, 5)
    logits = draw.normal(size=50).astype(np.float32)
    whole = Resampler(rows, draws=9).figures(logits)
    monkeypatch.setattr(resampling, "BLOCK", 20)
    cut = Resampler(rows, draws=9).figures(logits)
    assert all(np.allclose(whole[name], cut[name], rtol=1e-12, equal_nan=True) for name in whole)


def test_kept_figures_are_those_of_these_logits_and_draws(tmp_path):
    rows, draw = shop(10, 5)
    first, second = draw.normal(size=(2, 50)).astype(np.float32)
    path = tmp_path / "draws.npz"
    for logits, draws in ((first, 4), (first, 4), (second, 4), (second, 7)):
        resampler = Resampler(rows, draws=draws)
        kept, fresh = resampler.kept_figures(path, logits), resampler.figures(logits)
        assert kept.keys() == fresh.keys()
        assert all(np.array_equal(kept[name], fresh[name], equal_nan=True) for name in kept)
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-30]):
        path.write_bytes(damaged)
        again = resampler.kept_figures(path, logits)
        assert all(np.array_equal(again[name], fresh[name], equal_nan=True) for name in fresh)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("count", [0, 1])
def test_no_row_and_one_row_have_figures_that_are_not_there(count):
    rows = rows_of(np.zeros(count, np.int64), np.ones(count, np.float32), none=np.zeros(count, bool))
    found = Resampler(rows, draws=3).figures(np.zeros(count, np.float32))
    assert np.isnan(found["whole auc"]).all()
    assert np.isnan(found["none log_loss"]).all()
    assert np.isnan(found["whole log_loss"]).all() == (count == 0)
    none = paired([found["whole auc"]], [found["whole auc"]], Resampler(rows, draws=3).seeds(1))
    assert np.isnan([none.value, none.low, none.high]).all()
    assert none.has_zero


def runs(gain, seeds, rng_seed):
    """Logits of a base and of a model whose scores know the label better by `gain`, under several seeds."""
    rows, _ = shop(80, 25, seed=rng_seed)
    draw = np.random.default_rng(rng_seed + 1)
    common = draw.normal(size=len(rows.label))
    for _ in range(seeds):
        noise = common + 0.3 * draw.normal(size=len(rows.label))
        yield rows, (0.5 * rows.label + noise).astype(np.float32), ((0.5 + gain) * rows.label + noise).astype(np.float32)


@pytest.mark.parametrize("measure", ["auc", "gauc", "log_loss"])
def test_intervals_see_a_planted_gain_and_cover_nothing_where_nothing_is(measure):
    name = f"whole {measure}"
    for gain in (0.3, 0.0):
        trio = list(runs(gain, 4, rng_seed=5))
        resampler = Resampler(trio[0][0], draws=300)
        base = [resampler.figures(logits)[name] for _, logits, _ in trio]
        other = [resampler.figures(logits)[name] for _, _, logits in trio]
        found = paired(base, other, resampler.seeds(4))
        assert found.value == pytest.approx(mean_of(other) - mean_of(base))
        assert found.low <= found.value <= found.high
        if gain:
            assert not found.has_zero
            assert (found.value > 0) == (measure != "log_loss")
        else:
            assert found.value == found.low == found.high == 0.0


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth = 0.2
    covered = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        # A seed moves every user alike: users alone would make the interval far too small.
        gains = truth + draw.normal(scale=0.1, size=5)
        base = [np.zeros(401)] * 5
        other = [np.concatenate([[gain], np.full(400, gain)]) for gain in gains]
        found = paired(base, other, Resampler(rows_of(np.arange(3), np.zeros(3, np.float32)), draws=400, seed=seed).seeds(5))
        covered.append(found.low <= truth <= found.high)
    assert 0.78 <= np.mean(covered) <= 1.0


def test_weights_of_seeds():
    resampler = Resampler(rows_of(np.arange(3), np.zeros(3, np.float32)), draws=2000)
    assert (resampler.seeds(1) == 1.0).all()
    drawn = resampler.seeds(5)
    assert drawn.shape == (2000, 5)
    assert np.allclose(drawn.sum(axis=1), 1.0)
    # The spread of the drawn mean is the standard error of a mean of five values.
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert (drawn @ values).std() == pytest.approx(values.std(ddof=1) / 5**0.5, rel=0.08)
