"""What a training run found, as JSON for programs: per seed and per user, so that others can pair and resample it.

``format_version``; ``settings``; ``data`` (the card of the impressions); ``users`` (``id`` and ``impressions`` of each test
user with both labels, in order); ``models``: per kind of features a list, one entry a seed, of ``seed``, ``auc``, ``gauc``,
``log_loss``, ``validation_gauc`` after each epoch and ``user_auc`` in the order of ``users``; ``differences``: each later
model less the first, GAUC with its 95 % interval over seeds and users.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide.pit.purchases import Purchases
from ranking.examples import Examples
from ranking.fit import measure
from ranking.metrics import paired_difference, user_aucs

FORMAT_VERSION: Final = 1
BOOTSTRAP_SEED: Final = 11


def seed_result(examples: Examples, logits: NDArray[np.float32], *, seed: int, curve: Sequence[float]) -> dict[str, Any]:
    """One entry of ``models``, of the test rows."""
    rows = examples.split.test
    found = user_aucs(examples.users(rows), examples.labels(rows), logits)
    return {
        "seed": seed,
        **measure(examples, rows, logits),
        "validation_gauc": list(curve),
        "user_auc": found.auc.tolist(),
    }


def body(
    purchases: Purchases, examples: Examples, models: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole file."""
    rows = examples.split.test
    # Which users have both labels does not depend on the scores.
    users = user_aucs(examples.users(rows), examples.labels(rows), np.zeros(len(rows), np.float32))
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
        "data": card(purchases, examples),
        "users": {"id": [purchases.user_ids[user] for user in users.user], "impressions": users.impressions.tolist()},
        "models": {name: list(entries) for name, entries in models.items()},
        "differences": differences,
    }


def card(purchases: Purchases, examples: Examples) -> dict[str, Any]:
    """Rows, positives and users of each part, its time range, and what was left out."""
    part = examples.split
    parts = {"train": part.train, "validation": part.validation, "test": part.test}
    return {
        "purchases": len(purchases),
        "items": len(purchases.item_ids),
        "left_out": {**purchases.left_out, **examples.impressions.left_out},
        "split": [_iso(moment) for moment in part.times],
        **{name: _part(examples, rows) for name, rows in parts.items()},
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON; NaN is null. A reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(_finite(content), allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def _aucs(entries: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.array([entry["user_auc"] for entry in entries], np.float64)


def _part(examples: Examples, rows: NDArray[np.int64]) -> dict[str, Any]:
    requests = examples.impressions.request[rows]
    times = examples.impressions.time[requests]
    return {
        "impressions": len(rows),
        "positives": int(examples.labels(rows).sum()),
        "users": len(np.unique(examples.users(rows))),
        "without_history": int((examples.histories.known[requests] == 0).sum()),
        "first": _iso(int(times.min())),
        "last": _iso(int(times.max())),
    }


def _iso(moment: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)).isoformat()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
