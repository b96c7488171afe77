"""What a training run found, as JSON for programs: per seed and per user, so that others can pair and resample it.

``format_version``; ``settings``; ``data`` (the card of the impressions); ``users`` (``id`` and ``impressions`` of each test
user with both labels, in order); ``models``: per kind of features a list, one entry a seed, of ``seed``, ``auc``, ``gauc``,
``log_loss``, ``validation_gauc`` after each epoch and ``user_auc`` in the order of ``users``; ``differences``: each later
model less the first, GAUC with its 95 % interval over seeds and users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranking.data_card import card_of
from ranking.evaluation import headline
from ranking.examples import Examples
from ranking.metrics import paired_difference, user_aucs

FORMAT_VERSION: Final = 1
BOOTSTRAP_SEED: Final = 11


def seed_result(examples: Examples, logits: NDArray[np.float32], *, seed: int, curve: Sequence[float]) -> dict[str, Any]:
    """One entry of ``models``, of the test rows."""
    rows = examples.split.test
    labels, users = examples.data.label[rows], examples.users(rows)
    return {
        "seed": seed,
        **headline(labels, logits, users),
        "validation_gauc": list(curve),
        "user_auc": user_aucs(users, labels, logits).auc.tolist(),
    }


def body(examples: Examples, models: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The whole file."""
    rows = examples.split.test
    # Which users have both labels does not depend on the scores.
    users = user_aucs(examples.users(rows), examples.data.label[rows], np.zeros(len(rows), np.float32))
    names = list(models)
    differences = {
        f"{name} - {names[0]}": asdict(
            paired_difference(users.impressions, _aucs(models[names[0]]), _aucs(models[name]), seed=BOOTSTRAP_SEED)
        )
        for name in names[1:]
        if len(users.auc)
    }
    return {
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "data": card_of(examples),
        "users": {"id": [examples.data.user_ids[user] for user in users.user], "impressions": users.impressions.tolist()},
        "models": {name: list(entries) for name, entries in models.items()},
        "differences": differences,
    }


def _aucs(entries: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.array([entry["user_auc"] for entry in entries], np.float64)
