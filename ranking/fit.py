"""Training of one model under one seed: the epoch that is best on the validation days is the one that is tested."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.training.checkpoint import Checkpoint, CheckpointFolder
from encoders.training.optimizer import Optimizer, random_state
from moontide.errors import Misconfigured
from ranking.config import FitConfig
from ranking.evaluation import headline
from ranking.examples import Examples
from ranking.groups import batches, groups_of
from ranking.models.base import Ranker
from ranking.models.make import Make

SCORE_GROUPS: Final = 64
SCORE_CANDIDATES: Final = 64
Say = Callable[[str], None]
Ints = NDArray[np.int64]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The chosen model, and after each epoch ``epoch``, ``train_loss`` and ``validation`` (``auc``, ``gauc``, ``log_loss``)."""

    model: Ranker
    curve: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What every stage of one run shares: examples, the seed, and where it speaks."""

    examples: Examples
    seed: int
    say: Say


class Trained:
    """What the optimizer needs of a model."""

    def __init__(self, model: Ranker, config: FitConfig) -> None:
        self.name, self._model, self._config = "rank", model, config

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What starts here at one rate, what a stage before has trained at its share of it."""
        brought = {id(p) for module in self._model.modules() if isinstance(module, Make) for p in module.parameters()}
        parameters, config = list(self._model.parameters()), self._config
        rates = {False: config.rate, True: config.rate * config.brought}
        groups = {old: [p for p in parameters if (id(p) in brought) == old] for old in rates}
        return [{"params": groups[old], "lr": rates[old], "weight_decay": config.decay} for old in rates if groups[old]]


def fit(model: Ranker, trial: Trial, config: FitConfig, *, checkpoints: CheckpointFolder | None = None) -> Fitted:
    """Train; bit-equal on CPU with the same seed, threads and torch, also when it goes on from a checkpoint of an epoch's end.

    Raises:
        Misconfigured: a loss that is not finite, or a checkpoint of something else.
    """
    examples, seed, say = trial.examples, trial.seed, trial.say
    model.learn(examples.statistics())
    optimizer = Optimizer(Trained(model, config), "cpu")  # type: ignore[arg-type]
    best = copy.deepcopy(model.state_dict())
    curve, first = list[Record](), 0
    if checkpoints is not None and (found := checkpoints.latest("rank")) is not None:
        curve, first = found.history, found.step
        model.load_state_dict(_part(found.tensors["stage"], "now"))
        best = _part(found.tensors["stage"], "best")
        optimizer.load_state(found.tensors["optimizer"])
        torch.set_rng_state(found.tensors["random"]["cpu"])
    for epoch in range(first, config.epochs):
        if _is_over(curve, config.patience):
            break
        loss = _epoch(model, optimizer, trial, config, epoch)
        if not np.isfinite(loss):
            raise Misconfigured(f"training: expected a finite loss, got {loss} in epoch {epoch + 1}; lower fit.rate")
        rows = examples.split.validation
        measured = headline(examples.data.label[rows], score(model, examples, rows), examples.users(rows))
        curve.append({"epoch": epoch + 1, "train_loss": loss, "validation": measured})
        if epoch == first and not np.isfinite(measured["gauc"]):
            say("validation: no user has both labels, so there is no GAUC: the epoch is chosen by log-loss")
        say(f"seed {seed} epoch {epoch + 1}/{config.epochs}: loss {loss:.4f}, validation {_told(measured)}")
        if _merit(curve[-1]) >= max(map(_merit, curve)):
            best = copy.deepcopy(model.state_dict())
        if checkpoints is not None:
            tensors = {**_named(model.state_dict(), "now"), **_named(best, "best")}
            parts = {"stage": tensors, "optimizer": optimizer.state(), "random": random_state("cpu")}
            checkpoints.save(Checkpoint("rank", epoch + 1, config.epochs, parts, curve))
    model.load_state_dict(best)
    return Fitted(model, tuple(curve))


def score(model: nn.Module, examples: Examples, rows: Ints) -> NDArray[np.float32]:
    """(B,) float32 logits of the impressions `rows`."""
    groups = groups_of(examples.data.request, rows, SCORE_CANDIDATES)
    found = np.zeros(len(examples.data.item), np.float32)
    model.eval()
    with torch.inference_mode():
        for chosen in batches(groups, lengths(examples, groups), SCORE_GROUPS):
            logits = model(examples.batch(chosen)).numpy()
            found[chosen[chosen >= 0]] = logits[chosen >= 0]
    return found[rows]


def lengths(examples: Examples, groups: Ints) -> Ints:
    """(groups,) behaviours of each group's history, cut to L."""
    start, stop = examples.bounds
    request = examples.data.request[groups[:, 0]]
    return stop[request] - start[request]


def _epoch(model: Ranker, optimizer: Optimizer, trial: Trial, config: FitConfig, epoch: int) -> float:
    model.train()
    examples, order = trial.examples, np.random.default_rng([trial.seed, epoch])
    groups = groups_of(examples.data.request, examples.split.train, config.candidates, order)
    total, seen = 0.0, 0
    for chosen in batches(groups, lengths(examples, groups), config.groups, order):
        loss = model.loss(examples.batch(chosen))
        norm = optimizer.gradients(loss)
        optimizer.step(1.0, norm=norm, clip=None)
        count = int((chosen >= 0).sum())
        total, seen = total + float(loss.detach()) * count, seen + count
    return total / max(seen, 1)


def _is_over(curve: list[Record], patience: int) -> bool:
    return bool(curve) and len(curve) - 1 - int(np.argmax([_merit(r) for r in curve])) >= patience


def _merit(record: Record) -> float:
    # Who has both labels is the same after every epoch: GAUC and log-loss never meet in one curve.
    measured = record["validation"]
    found = float(measured["gauc"]) if np.isfinite(measured["gauc"]) else -float(measured["log_loss"])
    return found if np.isfinite(found) else -np.inf


def _told(measured: Record) -> str:
    return f"GAUC {100 * measured['gauc']:.2f}" if np.isfinite(measured["gauc"]) else f"log-loss {measured['log_loss']:.4f}"


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _part(tensors: Any, prefix: str) -> dict[str, Tensor]:
    chosen: Iterable[tuple[str, Tensor]] = tensors.items()
    return {name.partition(".")[2]: value for name, value in chosen if name.startswith(f"{prefix}.")}
