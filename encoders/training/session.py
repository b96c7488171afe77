"""A whole run: every stage of a recipe one after another, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from encoders.artifact import Preprocessing
from encoders.tokenizer import Tokenizer
from encoders.towers import Moon
from encoders.training.checkpoint import CheckpointFolder
from encoders.training.contract import Stage
from encoders.training.curves import draw
from encoders.training.history import History
from encoders.training.loop import LoopConfig, run
from encoders.training.progress import Say

HISTORY: Final = "history.jsonl"
CURVES: Final = "curves.png"


class Recipe(Protocol):
    """A model and the stages that train it.

    Attributes:
        model: trained in place by the stages.
        tokenizer, preprocessing: what the artifact needs beside the model.
        sources: weights and tables from elsewhere that are part of the model, with licences.
    """

    model: Moon
    tokenizer: Tokenizer
    preprocessing: Preprocessing

    @property
    def sources(self) -> Sequence[dict[str, Any]]:
        """Of weights and tables."""
        ...

    def stages(self) -> Iterator[tuple[str, Stage[Any], int]]:
        """Name, stage and steps, in order; a stage is built when it is asked for, on what those before it left."""
        ...

    def untrained_model(self) -> Moon:
        """A copy as it was before any training."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its history, seconds of this process, and what asked for an early end, or None."""

    history: History
    seconds: float
    stopped: str | None

    @property
    def speeds(self) -> dict[str, dict[str, float]]:
        """Last measured ``pairs_per_s``, ``wait_share`` and ``seconds`` of each stage."""
        found: dict[str, dict[str, float]] = {}
        for record in self.history.of("speed"):
            found[record["stage"]] = {name: record[name] for name in ("pairs_per_s", "wait_share", "seconds")}
        return found


@dataclass(frozen=True, slots=True)
class Drive:
    """How a recipe is driven: `seed` for torch's global generator, the rest as in `LoopConfig`; `minutes` for all stages."""

    seed: int = 0
    device: str = "cpu"
    minutes: float | None = None
    clip: float | None = None


def train(recipe: Recipe, drive: Drive, *, checkpoints: CheckpointFolder | None, clock: Callable[[], float], say: Say) -> Outcome:
    """Drive every stage to its end; curves lie beside the checkpoints.

    Raises:
        Misconfigured: as `run`.
    """
    began = clock()
    history = History(None if checkpoints is None else checkpoints.folder / HISTORY)
    for at, (_, stage, steps) in enumerate(recipe.stages()):
        left = None if drive.minutes is None else max(0.0, drive.minutes - (clock() - began) / 60.0)
        # Whether features came from a cache or were computed must not decide what dropout draws.
        torch.manual_seed(drive.seed * 1009 + at)
        config = LoopConfig(steps, device=drive.device, clip=drive.clip, minutes=left)
        run(stage, config, checkpoints=checkpoints, clock=clock, say=say, history=history)
        if history.stopped is not None:
            break
    if checkpoints is not None and history.records:
        _draw(history, checkpoints.folder, say)
    return Outcome(history, clock() - began, history.stopped)


def _draw(history: History, folder: Path, say: Say) -> None:
    draw(history.records, folder / CURVES)
    say(f"curves: {folder / CURVES}")
