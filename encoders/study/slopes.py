"""The exchange rate: GAUC points that one point of recall buys, over several encoders, with intervals.

E encoders, S seeds, U users. `gains` are AUC differences of paired models (with SimTier less ID only), so that what the
seed and the user do to both cancels.

Two intervals, both by percentile bootstrap. `low`, `high`: seeds and users are drawn with replacement, the same draw for
all encoders; it speaks of these encoders. `wide_low`, `wide_high`: encoders are drawn too; it speaks of encoders like these,
and is the one that the verdict uses. Recall is taken as exact: its own noise flattens the slope (attenuation) by less than
the share ``noise variance / variance of recall over encoders``, so encoders should lie well apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.study.resample import drawn_means
from moontide.errors import Misconfigured

DRAWS: Final = 2000
CONFIDENCE: Final = 0.95
LEAST_ENCODERS: Final = 6
LEAST_SEEDS: Final = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slope:
    """GAUC points per point of recall; `gains` (E,) in points with `gain_low`, `gain_high`; `r2` of the line."""

    slope: float
    intercept: float
    low: float
    high: float
    wide_low: float
    wide_high: float
    r2: float
    gains: tuple[float, ...]
    gain_low: tuple[float, ...]
    gain_high: tuple[float, ...]

    @property
    def contains_zero(self) -> bool:
        """The wider interval has zero in it, ends included, or is not known."""
        return not (self.wide_low > 0 or self.wide_high < 0)

    @property
    def verdict(self) -> str:
        """One sentence."""
        said = f"{self.slope:+.3f} GAUC points per point of recall (95 %: {self.wide_low:+.3f} to {self.wide_high:+.3f})"
        if self.contains_zero:
            return f"{said}; the interval contains zero: no exchange rate is shown"
        return f"{said}; the interval excludes zero"


def fit_slope(recall: Floats, gains: Floats, impressions: NDArray[np.int64], *, seed: int, draws: int = DRAWS) -> Slope:
    """Least-squares line of gain on recall.

    Args:
        recall: (E,) in 0..1.
        gains: (E, S, U) AUC differences in -1..1.
        impressions: (U,) weights of the users.

    Raises:
        Misconfigured: fewer than `LEAST_ENCODERS`, `LEAST_SEEDS`, or encoders of one recall.
    """
    recall = np.asarray(recall, np.float64)
    encoders, seeds, users = gains.shape
    if encoders < LEAST_ENCODERS or seeds < LEAST_SEEDS or users < 1:
        raise Misconfigured(
            f"exchange rate: expected {LEAST_ENCODERS} encoders, {LEAST_SEEDS} seeds and a user or more, "
            f"got {encoders}, {seeds} and {users}"
        )
    if len(np.unique(recall)) < 2:
        raise Misconfigured(f"exchange rate: expected encoders of different recall, got {np.unique(recall).tolist()}")
    mean = 100.0 * (gains @ impressions).mean(axis=1) / impressions.sum()
    slope, intercept = line(100.0 * recall, mean)
    rest = mean - (intercept + slope * 100.0 * recall)
    total = ((mean - mean.mean()) ** 2).sum()
    drawn = 100.0 * drawn_means(impressions, gains, seed=seed, draws=draws)
    near = np.array([line(100.0 * recall, row)[0] for row in drawn])
    wide = _wide(100.0 * recall, drawn, seed)
    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(near, edges)
    wide_low, wide_high = np.quantile(wide, edges)
    gain_low, gain_high = np.quantile(drawn, edges, axis=0)
    return Slope(
        slope, intercept, float(low), float(high), float(wide_low), float(wide_high),
        1.0 - float((rest**2).sum() / total) if total > 0 else 0.0,
        tuple(mean.tolist()), tuple(gain_low.tolist()), tuple(gain_high.tolist()),
    )  # fmt: skip


def line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and intercept of the least-squares line."""
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def _wide(recall: Floats, drawn: Floats, seed: int) -> Floats:
    """Slopes with encoders drawn as well; draws of a single recall have no slope and are drawn again."""
    generator = np.random.default_rng((seed, 1))
    found = np.empty(len(drawn))
    for at, row in enumerate(drawn):
        chosen = generator.integers(len(recall), size=len(recall))
        while len(np.unique(recall[chosen])) < 2:
            chosen = generator.integers(len(recall), size=len(recall))
        found[at] = line(recall[chosen], row[chosen])[0]
    return found
