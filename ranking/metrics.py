"""AUC, GAUC, log-loss, normalised entropy and calibration over a whole set, and paired bootstrap intervals.

I impressions, U users, S seeds. A tie between a positive and a negative counts half. GAUC is the mean of the users' AUCs
weighted by their impressions; users whose labels are all alike have no AUC and do not count. Normalised entropy and
calibration are those of He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (2014), section 3. A figure
that does not exist (no row, or one label only where two are needed) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.study.resample import drawn_means

DRAWS: Final = 1000
CONFIDENCE: Final = 0.95
SEGMENTS: Final = 10

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UserAucs:
    """`user` (U,) int64 rising, `impressions` (U,) int64, `auc` (U,) float64; only users with both labels."""

    user: Ints
    impressions: Ints
    auc: Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def has_zero(self) -> bool:
        """Zero lies in the interval, ends included; also where the interval is not known."""
        return not (self.low > 0 or self.high < 0)


def auc(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> float:
    """Share of (positive, negative) pairs in the right order; NaN where one label is missing."""
    found = user_aucs(np.zeros(len(labels), np.int64), labels, scores)
    return float(found.auc[0]) if len(found.auc) else float("nan")


def user_aucs(users: Ints, labels: NDArray[np.floating], scores: NDArray[np.floating]) -> UserAucs:
    """AUC of each user."""
    order = np.lexsort((scores, users))
    user, score, positive = users[order], scores[order], labels[order] > 0
    if not len(user):
        return UserAucs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    new_user = np.concatenate([[True], user[1:] != user[:-1]])
    new_group = new_user | np.concatenate([[True], score[1:] != score[:-1]])
    groups = np.flatnonzero(new_group)
    positives, negatives = (np.add.reduceat(part.astype(np.int64), groups) for part in (positive, ~positive))
    owner = np.cumsum(new_user)[groups] - 1
    count = int(new_user.sum())
    all_positives, all_negatives = (np.bincount(owner, part, count).astype(np.int64) for part in (positives, negatives))
    below = np.cumsum(negatives) - negatives - (np.cumsum(all_negatives) - all_negatives)[owner]
    # Twice the pairs won, so that a tie's half stays an integer and the sum is exact.
    won = np.bincount(owner, positives * (2 * below + negatives), count)
    pairs = all_positives * all_negatives
    kept = pairs > 0
    values = won[kept] / (2.0 * pairs[kept])
    return UserAucs(user[new_user][kept], (all_positives + all_negatives)[kept], values)


def gauc(found: UserAucs) -> float:
    """Mean of the users' AUCs, weighted by impressions; NaN without a user."""
    return float(np.average(found.auc, weights=found.impressions)) if len(found.auc) else float("nan")


def log_losses(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> Floats:
    """(I,) float64 of -log p(label), from logits: no probability is rounded to 0 or 1."""
    x, y = logits.astype(np.float64), labels.astype(np.float64)
    return np.asarray(np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x))))


def log_loss(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> float:
    """Mean of `log_losses`."""
    return float(log_losses(labels, logits).mean()) if len(labels) else float("nan")


def entropy(share: Floats | float) -> Floats:
    """Log-loss, in nats, of who predicts `share` always where `share` of the labels are 1; 0 at 0 and 1."""
    p = np.asarray(share, np.float64)
    inside = (p > 0) & (p < 1)
    q = np.where(inside, p, 0.5)
    return np.where(inside, -(q * np.log(q) + (1 - q) * np.log1p(-q)), np.where(np.isnan(p), np.nan, 0.0))


def normalised_entropy(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> float:
    """Log-loss over the entropy of these rows' own share of positives: 1 is as good as knowing that share, less is better."""
    least = float(entropy(labels.mean(dtype=np.float64))) if len(labels) else 0.0
    return log_loss(labels, logits) / least if least > 0 else float("nan")


def probabilities(logits: NDArray[np.floating]) -> Floats:
    """(I,) float64 sigmoid of logits; no overflow."""
    x = logits.astype(np.float64)
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def calibration(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> float:
    """Predicted over counted positives: above 1 promises too much."""
    counted = labels.sum(dtype=np.float64)
    return float(probabilities(logits).sum() / counted) if counted > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of neighbouring scores: how many, their mean probability and their share of positives."""

    rows: int
    predicted: float
    observed: float


def segments(labels: NDArray[np.floating], logits: NDArray[np.floating], count: int = SEGMENTS) -> list[Segment]:
    """Up to `count` segments of about as many rows each, by rising score. Equal scores stay together, so there may be fewer."""
    if not len(labels):
        return []
    below = np.searchsorted(np.sort(logits), logits, side="left")
    place = below * count // len(logits)
    rows = np.bincount(place, minlength=count)
    predicted, observed = (np.bincount(place, part, count) for part in (probabilities(logits), labels.astype(np.float64)))
    return [
        Segment(int(size), float(p / size), float(y / size))
        for size, p, y in zip(rows, predicted, observed, strict=True) if size
    ]  # fmt: skip


def calibration_error(found: Sequence[Segment]) -> float:
    """Expected calibration error: distance of predicted and observed shares, averaged over the rows of the segments."""
    total = sum(each.rows for each in found)
    return sum(each.rows * abs(each.predicted - each.observed) for each in found) / total if total else float("nan")


def paired_difference(impressions: Ints, base: Floats, other: Floats, *, seed: int, draws: int = DRAWS) -> Interval:
    """GAUC of `other` less that of `base`, both (S, U) AUCs of the same seeds and users."""
    difference = other - base
    drawn = drawn_means(impressions, difference[None], seed=seed, draws=draws)[:, 0]
    return interval(float(np.average(difference.mean(axis=0), weights=impressions)), drawn)


def interval(value: float, drawn: Floats) -> Interval:
    """Percentile interval of `drawn` around `value`."""
    low, high = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(value, float(low), float(high))
