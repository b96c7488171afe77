"""Recalibration of a trained model on its validation days: ``slope * logit + intercept``, by maximum likelihood.

The sigmoid of Platt, "Probabilistic Outputs for Support Vector Machines" (1999), section 2, with the labels as they are instead
of his smoothed targets, so that predicted and counted positives agree on the days it is fitted on. The slope is above zero: the
order of the scores stays, and with it AUC and GAUC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranking.evaluation import WHOLE, Bools, calibration_figures
from ranking.metrics import log_losses, probabilities

_STEPS: Final = 100
_HALVINGS: Final = 30
#: Of the gradient, a row: predicted and counted positives agree to about this.
_ENOUGH: Final = 1e-12
#: Logits for each standard deviation of the scores: with less, scores that differ would come out alike.
_LEAST_SLOPE: Final = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recalibration:
    """``slope`` above 0 and ``intercept``."""

    slope: float
    intercept: float

    def __call__(self, logits: NDArray[np.floating]) -> Floats:
        """(I,) float64 recalibrated logits."""
        return self.slope * logits.astype(np.float64) + self.intercept


def fit_recalibration(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> Recalibration | None:
    """Fitted on (I,) labels and logits; None where one of both labels is missing.

    The intercept alone is fitted (slope 1) where no slope above 0 is best, or one of next to nothing, where the scores are all
    alike, or where they part the labels so well that the best slope is infinite.
    """
    up, x = labels > 0, logits.astype(np.float64)
    if up.all() or not up.any():
        return None
    y, middle, width = up.astype(np.float64), float(x.mean()), float(x.std())
    ones = np.ones((len(x), 1))
    if width > 0 and x[up].min() < x[~up].max():
        # Scaled, so that both parameters are of one size.
        scaled, offset = _fitted(np.column_stack([(x - middle) / width, ones]), y, np.zeros(len(x)))
        if scaled > _LEAST_SLOPE:
            return Recalibration(float(scaled / width), float(offset - scaled * middle / width))
    return Recalibration(1.0, float(_fitted(ones, y, x)[0]))


def recalibrated(
    validation: tuple[NDArray[np.floating], NDArray[np.floating]],
    test: tuple[NDArray[np.floating], NDArray[np.floating]],
    slices: Mapping[str, Bools],
) -> dict[str, Any] | None:
    """What a run file says of it: ``slope``, ``intercept``, and ``before`` and ``after`` it the figures of `calibration_figures`
    (``validation``: whole; ``test``: whole and by slice). None where nothing can be fitted.

    Args:
        validation, test: labels and logits of the rows.
        slices: (I,) masks of the test rows.
    """
    found = fit_recalibration(*validation)
    if found is None:
        return None
    said = {
        name: {
            "validation": calibration_figures(validation[0], change(validation[1]), {})[WHOLE],
            "test": calibration_figures(test[0], change(test[1]), slices),
        }
        for name, change in (("before", np.asarray), ("after", found))
    }
    return {**asdict(found), **said}


def _fitted(design: Floats, labels: Floats, offset: Floats) -> Floats:
    """(P,) parameters of a logistic regression on `design` (I, P), by Newton steps that never raise the loss."""
    found = np.zeros(design.shape[1])
    loss = float(log_losses(labels, offset).sum())
    for _ in range(_STEPS):
        shares = probabilities(design @ found + offset)
        gradient = design.T @ (shares - labels)
        if float(np.abs(gradient).max()) <= _ENOUGH * len(labels):
            break
        curvature = (design * (shares * (1 - shares))[:, None]).T @ design
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        for _ in range(_HALVINGS):
            tried = float(log_losses(labels, design @ (found - step) + offset).sum())
            if tried <= loss:
                break
            step /= 2
        else:
            break
        found, loss = found - step, tried
    return found
