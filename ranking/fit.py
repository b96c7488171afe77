"""Training of one model under one seed: the epoch that is best on the validation days is the one that is tested."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from ranking.din import Din, DinConfig
from ranking.examples import Examples
from ranking.metrics import auc, gauc, log_loss, user_aucs

SCORE_BATCH: Final = 4096
Say = Callable[[str], None]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Settings of training, shared by all models: the best of a few tried for the ID model on Online Retail's validation days.

    Args:
        epochs: at most so many; training stops after `patience` epochs without a better validation GAUC.
        decay: weight decay of AdamW.
    """

    epochs: int = 4
    batch: int = 1024
    rate: float = 2e-3
    decay: float = 1e-4
    patience: int = 2
    width: int = 32
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class Fitted:
    """The chosen model, and validation GAUC after each epoch."""

    model: Din
    curve: tuple[float, ...]


def fit(examples: Examples, config: FitConfig, *, items: int, seed: int, say: Say) -> Fitted:
    """Train; bit-equal on CPU with the same seed, threads and torch.

    Raises:
        Misconfigured: a loss that is not finite.
    """
    torch.manual_seed(seed)
    tiers = 0 if examples.tiers is None else examples.tiers.shape[1] - 1
    shape = DinConfig(items, examples.scalars.shape[1], tiers, config.width, config.hidden, config.dropout)
    model = Din(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.decay)
    order = np.random.default_rng(seed)
    best, curve = copy.deepcopy(model.state_dict()), list[float]()
    for epoch in range(config.epochs):
        loss = _epoch(model, optimizer, examples, order.permutation(examples.split.train), config.batch)
        if not np.isfinite(loss):
            raise Misconfigured(f"training: expected a finite loss, got {loss} in epoch {epoch}; lower the rate")
        curve.append(measure(examples, examples.split.validation, score(model, examples, examples.split.validation))["gauc"])
        say(f"seed {seed} epoch {epoch + 1}/{config.epochs}: loss {loss:.4f}, validation GAUC {100 * curve[-1]:.2f}")
        if curve[-1] >= max(curve):
            best = copy.deepcopy(model.state_dict())
        elif len(curve) - 1 - int(np.argmax(curve)) >= config.patience:
            break
    model.load_state_dict(best)
    return Fitted(model, tuple(curve))


def score(model: Din, examples: Examples, rows: Ints) -> NDArray[np.float32]:
    """(B,) float32 logits of the rows."""
    model.eval()
    with torch.no_grad():
        parts = [
            model(*examples.batch(rows[at : at + SCORE_BATCH])).numpy().astype(np.float32)
            for at in range(0, len(rows), SCORE_BATCH)
        ]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def measure(examples: Examples, rows: Ints, logits: NDArray[np.float32]) -> dict[str, float]:
    """``auc``, ``gauc`` and ``log_loss`` over these rows."""
    labels = examples.labels(rows)
    return {
        "auc": auc(labels, logits),
        "gauc": gauc(user_aucs(examples.users(rows), labels, logits)),
        "log_loss": log_loss(labels, logits),
    }


def _epoch(model: Din, optimizer: torch.optim.Optimizer, examples: Examples, rows: Ints, batch: int) -> float:
    model.train()
    total = 0.0
    for at in range(0, len(rows), batch):
        chosen = rows[at : at + batch]
        logits = model(*examples.batch(chosen))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(examples.labels(chosen)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / len(rows)
