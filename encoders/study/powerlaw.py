"""Power laws of the recall error: ``error = a * x**-b + c`` with intervals, and a verdict whether one fits at all.

P points, each one run: x (training pairs, negatives, length) and the error (1 less recall, or 0.5 less a gain) it gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured

DRAWS: Final = 400
CONFIDENCE: Final = 0.95
#: Below this share of explained variance the curve is not called a power law.
LEAST_R2: Final = 0.8
EXPONENTS: Final = np.linspace(-1.0, 3.0, 401)
#: With fewer values of x an offset fits anything.
LEAST_FOR_OFFSET: Final = 5
LEAST_POINTS: Final = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``error = a * x**-b + c``; `b_low`, `b_high` are the ends of the 95 % bootstrap interval of b, NaN where unknown.

    `fits` is False where R2 is below `LEAST_R2` or the interval of b has zero in it or is unknown; `why` says which.
    """

    a: float
    b: float
    c: float
    b_low: float
    b_high: float
    r2: float
    fits: bool
    why: str

    def __call__(self, x: Floats) -> Floats:
        """Errors at x."""
        return self.a * np.power(x, -self.b) + self.c


def fit_power_law(x: Floats, error: Floats, *, seed: int, draws: int = DRAWS) -> PowerLaw:
    """Least squares with a, c >= 0 and b on a grid of 0.01 in -1..3; c is free from `LEAST_FOR_OFFSET` values of x on.

    The interval comes from a bootstrap of residuals about the fit (spread widened for the parameters fitted): it holds
    for the x that were run, and counts the noise of seeds and of a wrong form alike.

    Raises:
        Misconfigured: fewer than `LEAST_POINTS` values of x, an x that is not positive, or a value that is not finite.
    """
    x, error = np.asarray(x, np.float64), np.asarray(error, np.float64)
    places = len(np.unique(x))
    if places < LEAST_POINTS or not (x > 0).all() or not (np.isfinite(x).all() and np.isfinite(error).all()):
        raise Misconfigured(
            f"power law: expected finite errors at {LEAST_POINTS} or more positive x, got x {np.unique(x).tolist()}"
        )
    offset = places >= LEAST_FOR_OFFSET
    middle = float(np.exp(np.mean(np.log(x))))
    design = _Design(x / middle, offset=offset)
    a, b, c = design.fit(error[None])[0]
    fitted = a * (x / middle) ** -b + c
    residuals = error - fitted
    total = float(((error - error.mean()) ** 2).sum())
    r2 = 1.0 - float((residuals**2).sum()) / total if total > 0 else 0.0
    low, high = _interval(design, fitted, residuals, 3 if offset else 2, seed, draws)
    why = _why(r2, low, high)
    return PowerLaw(a * middle**b, b, c, low, high, r2, not why, why or "fits")


def _interval(design: _Design, fitted: Floats, residuals: Floats, parameters: int, seed: int, draws: int) -> tuple[float, float]:
    left = len(residuals) - parameters
    if left < 1:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    wide = (residuals - residuals.mean()) * np.sqrt(len(residuals) / left)
    found = design.fit(fitted + generator.choice(wide, size=(draws, len(residuals))))[:, 1]
    low, high = np.quantile(found, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def _why(r2: float, low: float, high: float) -> str:
    reasons = []
    if r2 < LEAST_R2:
        reasons.append(f"R2 {r2:.2f} is below {LEAST_R2}")
    if not (np.isfinite(low) and np.isfinite(high)):
        reasons.append("too few points for an interval of b")
    elif low <= 0 <= high:
        reasons.append(f"the interval of b, {low:.2f} to {high:.2f}, contains 0")
    return "; ".join(reasons)


class _Design:
    """Least squares for every exponent of the grid at once, for many vectors of errors."""

    def __init__(self, x: Floats, *, offset: bool) -> None:
        self._curves = np.power(x[None, :], -EXPONENTS[:, None])
        self._offset = offset

    def fit(self, errors: Floats) -> Floats:
        """(D, 3) a, b, c of (D, P) errors."""
        candidates = [self._through_zero(errors)]
        if self._offset:
            candidates += [self._with_offset(errors), self._flat(errors)]
        losses = np.stack([loss for _, _, loss in candidates])
        which = losses.min(axis=2).argmin(axis=0)
        found = np.empty((len(errors), 3))
        for row, kind in enumerate(which):
            a, c, loss = (part[row] for part in candidates[kind])
            best = int(loss.argmin())
            found[row] = a[best], EXPONENTS[best], c[best]
        return found

    def _through_zero(self, errors: Floats) -> tuple[Floats, Floats, Floats]:
        curves = self._curves
        a = np.maximum(errors @ curves.T / (curves**2).sum(axis=1), 0.0)
        return self._solved(errors, a, np.zeros_like(a))

    def _with_offset(self, errors: Floats) -> tuple[Floats, Floats, Floats]:
        centred = self._curves - self._curves.mean(axis=1, keepdims=True)
        spread = (centred**2).sum(axis=1)
        a = errors @ centred.T / np.where(spread > 1e-12, spread, np.inf)
        c = errors.mean(axis=1, keepdims=True) - a * self._curves.mean(axis=1)
        # The best point of a bound region lies inside it or on an edge; the edges are the other two candidates.
        a, c, loss = self._solved(errors, a, c)
        return a, c, np.where((a >= 0) & (c >= 0), loss, np.inf)

    def _flat(self, errors: Floats) -> tuple[Floats, Floats, Floats]:
        c = np.repeat(np.maximum(errors.mean(axis=1, keepdims=True), 0.0), len(EXPONENTS), axis=1)
        return self._solved(errors, np.zeros_like(c), c)

    def _solved(self, errors: Floats, a: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
        # Sums instead of a (D, E, P) array: 400 draws by 401 exponents by P points would not stay small.
        curves, points = self._curves, errors.shape[1]
        squares, sums = (curves**2).sum(axis=1), curves.sum(axis=1)
        loss = (errors**2).sum(axis=1, keepdims=True) + a**2 * squares + points * c**2
        loss = loss - 2 * a * (errors @ curves.T) - 2 * c * errors.sum(axis=1, keepdims=True) + 2 * a * c * sums
        return a, c, loss
