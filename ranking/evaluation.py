"""What one model did on the test days: every figure over the whole set and over slices of it.

I impressions. Slices (masks of impressions; they overlap):

``new_items``: the item has fewer than `NEW_BELOW` training impressions, negatives included.
``tail_items``: the item is not among the most bought ones that together make `HEAD_SHARE` of the training positives; items
with as many positives as the last of those belong to the head, items never seen in training to the tail.
``short_histories``: the user had at most `SHORT` behaviours before the impression.

Figures of a slice use the slice's impressions alone. AUC and GAUC of new items therefore ask whether the right new item stands
above the other new items that were shown, a user at a time in GAUC, and not whether new items stand above or below old ones:
a model cannot gain by lifting all of them. `calibration` says whether it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranking.metrics import (
    Segment,
    auc,
    calibration,
    calibration_error,
    gauc,
    log_loss,
    normalised_entropy,
    segments,
    user_aucs,
)

WHOLE: Final = "whole"
NEW_ITEMS: Final = "new_items"
TAIL_ITEMS: Final = "tail_items"
SHORT_HISTORIES: Final = "short_histories"
SLICES: Final = (NEW_ITEMS, TAIL_ITEMS, SHORT_HISTORIES)

NEW_BELOW: Final = 10
HEAD_SHARE: Final = 0.8
SHORT: Final = 5

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def slices_of(items: Ints, known: Ints, train_items: Ints, train_labels: NDArray[np.floating]) -> dict[str, Bools]:
    """(I,) masks of the test impressions, by name in the order of `SLICES`.

    Args:
        items, known: (I,) item row >= 0 of each test impression, and behaviours of its user strictly before it.
        train_items, train_labels: (J,) of the training impressions that the model was trained on.
    """
    size = 1 + max((int(part.max()) for part in (items, train_items) if len(part)), default=0)
    shown = np.bincount(train_items, minlength=size)
    bought = np.bincount(train_items, train_labels > 0, minlength=size).astype(np.int64)
    return {
        NEW_ITEMS: shown[items] < NEW_BELOW,
        TAIL_ITEMS: bought[items] < _head_from(bought),
        SHORT_HISTORIES: known <= SHORT,
    }


def _head_from(bought: Ints) -> int:
    """Positives of the least bought item of the head."""
    falling = np.sort(bought)[::-1]
    reached = np.cumsum(falling)
    # Without a positive there is no head.
    return int(falling[np.searchsorted(reached, HEAD_SHARE * reached[-1])]) if reached[-1] else 1


def headline(labels: NDArray[np.floating], logits: NDArray[np.floating], users: Ints) -> dict[str, float]:
    """``auc``, ``gauc`` and ``log_loss`` alone: what is watched on the validation days after every epoch."""
    return {
        "auc": auc(labels, logits),
        "gauc": gauc(user_aucs(users, labels, logits)),
        "log_loss": log_loss(labels, logits),
    }


def evaluate(
    labels: NDArray[np.floating], logits: NDArray[np.floating], users: Ints, slices: Mapping[str, Bools]
) -> dict[str, dict[str, Any]]:
    """Figures of ``whole`` and of each slice.

    Per slice: ``rows``, ``positives``, ``users`` (with both labels: those that count in GAUC), ``auc``, ``gauc``, ``log_loss``,
    ``normalised_entropy``, ``calibration`` (predicted over counted positives), ``calibration_error`` and ``segments`` (tenths by
    score: ``rows``, ``predicted``, ``observed``). A figure that does not exist is NaN, also where a slice is empty.

    Args:
        labels, logits, users: (I,) of every test impression.
        slices: (I,) masks.
    """
    masks = {WHOLE: np.ones(len(labels), bool), **slices}
    return {name: _figures(labels[mask], logits[mask], users[mask]) for name, mask in masks.items()}


def calibration_figures(
    labels: NDArray[np.floating], logits: NDArray[np.floating], slices: Mapping[str, Bools]
) -> dict[str, dict[str, float]]:
    """Of ``whole`` and each slice what a change of scale of the logits moves: ``log_loss``, ``normalised_entropy``,
    ``calibration`` and ``calibration_error``, as `evaluate` has them.
    """
    masks = {WHOLE: np.ones(len(labels), bool), **slices}
    return {
        name: _scale_figures(labels[mask], logits[mask], segments(labels[mask], logits[mask])) for name, mask in masks.items()
    }


def _scale_figures(labels: NDArray[np.floating], logits: NDArray[np.floating], tenths: list[Segment]) -> dict[str, float]:
    return {
        "log_loss": log_loss(labels, logits),
        "normalised_entropy": normalised_entropy(labels, logits),
        "calibration": calibration(labels, logits),
        "calibration_error": calibration_error(tenths),
    }


def _figures(labels: NDArray[np.floating], logits: NDArray[np.floating], users: Ints) -> dict[str, Any]:
    found = user_aucs(users, labels, logits)
    tenths = segments(labels, logits)
    return {
        "rows": len(labels),
        "positives": int((labels > 0).sum()),
        "users": len(found.user),
        "auc": auc(labels, logits),
        "gauc": gauc(found),
        **_scale_figures(labels, logits, tenths),
        "segments": [asdict(each) for each in tenths],
    }
