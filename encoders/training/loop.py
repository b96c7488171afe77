"""The training loop: drives any `Stage` to its end, or to a clear error, and keeps what it saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import torch

from encoders.training.ahead import drawn_ahead, stop_signals
from encoders.training.checkpoint import Checkpoint, CheckpointFolder
from encoders.training.contract import Stage
from encoders.training.history import History
from encoders.training.optimizer import Optimizer, random_state, rate_at, set_random_state
from encoders.training.progress import Progress, Say
from encoders.training.throughput import Speed, Throughput
from moontide.errors import Misconfigured

BatchT = TypeVar("BatchT")
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)

RECORDS: Final = 2000
IDS_SHOWN: Final = 10


@runtime_checkable
class NamesItems(Protocol[BatchT_contra]):
    """A stage that can say which items a batch holds, for the message of a loss that is no number."""

    def item_ids(self, batch: BatchT_contra) -> Sequence[str]:
        """Item ids of a batch."""
        ...


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How a stage is driven.

    Args:
        steps: optimiser steps; the rate warms up over the first twentieth and falls to zero along a cosine.
        device: where the stage's tensors are, ``cpu`` or ``cuda``; its generator is part of a checkpoint.
        clip: largest norm of all gradients together; None: as they are.
        validations: times `Stage.validate` is asked in a run, evenly, and once before the first step.
        ahead: batches that a thread draws ahead.
        minutes: no further step after this time; the result then depends on the machine. None: no limit.
        say_every: seconds between two lines where there is no terminal.
        save_every: seconds between two checkpoints, beside the one at each validation.
    """

    steps: int
    device: str = "cpu"
    clip: float | None = None
    validations: int = 10
    ahead: int = 2
    minutes: float | None = None
    say_every: float = 10.0
    save_every: float = 300.0


def run(
    stage: Stage[BatchT],
    config: LoopConfig,
    *,
    checkpoints: CheckpointFolder | None,
    clock: Callable[[], float],
    say: Say,
    history: History | None = None,
) -> History:
    """Train a stage to its last step, from its latest checkpoint where there is one.

    Whatever the time limit or a signal, the state after step n is a function of the stage, the state of torch's global
    generator at the start, and n alone. SIGINT and SIGTERM end the run after the step at work, with a checkpoint; a second
    one ends it at once.

    Args:
        history: of the stages before; goes on with this stage's records.

    Returns:
        The history; its `stopped` says what asked for an end (``SIGTERM``, ``1.5 minutes``), or is None.

    Raises:
        Misconfigured: a loss or a gradient is not finite, no batch gave a loss, or a checkpoint does not fit.
    """
    if config.steps < 1:
        raise Misconfigured(f"stage {stage.name}: expected at least 1 step, got {config.steps}; leave the stage out instead")
    history = History() if history is None else history
    history.stopped, history.skipped = None, 0
    return _Run(stage, config, history, checkpoints, clock).drive(say)


class _Run:
    def __init__(
        self,
        stage: Stage[Any],
        config: LoopConfig,
        history: History,
        checkpoints: CheckpointFolder | None,
        clock: Callable[[], float],
    ) -> None:
        self.stage, self.config, self.history, self.checkpoints, self.clock = stage, config, history, checkpoints, clock
        self.optimizer = Optimizer(stage, config.device)
        self.done = 0

    def drive(self, say: Say) -> History:
        config = self.config
        self._resume(say)
        if self.done == config.steps:
            return self.history
        meter, saved = Throughput(self.clock), self.clock()
        deadline = math.inf if config.minutes is None else self.clock() + 60.0 * config.minutes
        with (
            stop_signals() as signals,
            drawn_ahead(self.stage.draw, range(self.done, config.steps), config.ahead) as take,
            Progress(self.stage.name, config.steps, say, self.clock, every=config.say_every) as progress,
        ):
            if self.done == 0:
                self._validate(meter, progress)
            while self.done < config.steps:
                with meter.waiting():
                    batch = take()
                losses = self._step(batch)
                meter.add(self.stage.pairs_in(batch))
                progress.show(self.done, losses, meter.speed())
                due = self.done * config.validations // config.steps > (self.done - 1) * config.validations // config.steps
                if due:
                    self._validate(meter, progress)
                self.history.stopped = self._why_stop(signals, deadline)
                last = self.history.stopped is not None or self.done == config.steps
                if due or last or self.clock() - saved > config.save_every:
                    with meter.apart():
                        self._save()
                    saved = self.clock()
                if self.history.stopped is not None:
                    break
        self._say_end(say, meter.speed())
        return self.history

    def _step(self, batch: Any) -> dict[str, float]:
        """One step of the optimiser; the losses as numbers, for show."""
        config = self.config
        parts = self.stage.losses(batch)
        values = {name: float(value.detach()) for name, value in parts.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._diverged(batch, f"loss {name!r} is {value}")
        rate = rate_at(self.done, config.steps)
        total = torch.stack(list(parts.values())).sum() if parts else None
        if total is not None and total.requires_grad:
            norm = self.optimizer.gradients(total)
            if not math.isfinite(float(norm)):
                raise self._diverged(batch, f"the norm of the gradients is {float(norm)} under losses {values}")
            self.optimizer.step(rate, norm=norm, clip=config.clip)
        else:
            self.history.skipped += 1
        self.done += 1
        self.stage.after_step(batch, self.done / config.steps)
        every = max(1, config.steps // RECORDS)
        if self.done % every == 0 or self.done == config.steps:
            self.history.add("loss", self._place(), losses=values, rate=rate)
        return values

    def _diverged(self, batch: Any, what: str) -> Misconfigured:
        newest = None if self.checkpoints is None else self.checkpoints.newest()
        ids = list(self.stage.item_ids(batch)) if isinstance(self.stage, NamesItems) else []
        shown = ", ".join(ids[:IDS_SHOWN]) + (f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else "")
        return Misconfigured(
            f"stage {self.stage.name}, step {self.done + 1} of {self.config.steps}: "
            f"expected finite losses and gradients, but {what}; no model was written. "
            f"Last good checkpoint: {newest or 'none'}. Lower the learning rates or raise the temperature, "
            f"and look at the batch of this step{f' (items {shown})' if ids else ''}"
        )

    def _validate(self, meter: Throughput, progress: Progress) -> None:
        speed = meter.speed()
        with meter.apart():
            recall = {name: float(value) for name, value in self.stage.validate().items()}
        for name, value in recall.items():
            if not math.isfinite(value):
                raise Misconfigured(
                    f"stage {self.stage.name}, step {self.done}: expected a finite {name} on the validation split, got {value}"
                )
        self.history.add("recall", self._place(), recall=recall)
        if self.done:
            self.history.add(
                "speed", self._place(), pairs_per_s=speed.pairs_per_s, wait_share=speed.wait_share, seconds=speed.seconds
            )
        if recall:
            progress.line(f"{self.done}/{self.config.steps} validation: " + " ".join(f"{k} {v:.3f}" for k, v in recall.items()))

    def _why_stop(self, signals: list[str], deadline: float) -> str | None:
        at_end = self.done == self.config.steps
        if at_end and self.history.skipped == self.done:
            raise Misconfigured(
                f"stage {self.stage.name}: expected losses, got none in {self.done} steps; there are no pairs in the data, "
                "or all were filtered out"
            )
        if signals:
            return signals[0]
        return f"{self.config.minutes} minutes" if not at_end and self.clock() > deadline else None

    def _say_end(self, say: Say, speed: Speed) -> None:
        name, done, stopped = self.stage.name, self.done, self.history.stopped
        skipped = f", {self.history.skipped} steps without a loss" if self.history.skipped else ""
        say(
            f"{name}: {done} of {self.config.steps} steps{skipped}, {speed.pairs_per_s:.0f} pairs/s, "
            f"waited for data {100 * speed.wait_share:.1f} % of {speed.seconds:.1f} s"
        )
        if stopped is not None:
            kept = "nothing was kept (no checkpoint folder)" if self.checkpoints is None else f"kept {self.checkpoints.newest()}"
            say(f"{name}: stopped by {stopped} after step {done}, {kept}; as it stands, this run does not repeat")

    def _place(self) -> dict[str, Any]:
        return {"stage": self.stage.name, "step": self.done, "steps": self.config.steps}

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        tensors = {
            "stage": self.stage.state(), "optimizer": self.optimizer.state(), "random": random_state(self.config.device)
        }  # fmt: skip
        self.checkpoints.save(
            Checkpoint(self.stage.name, self.done, self.config.steps, tensors, self.history.records, self.history.skipped)
        )
        if self.done == self.config.steps:
            self.checkpoints.close_stage(self.stage.name)

    def _resume(self, say: Say) -> None:
        found = None if self.checkpoints is None else self.checkpoints.latest(self.stage.name)
        if found is None:
            return
        if found.steps != self.config.steps:
            raise Misconfigured(
                f"stage {self.stage.name}: expected a checkpoint of a run of {self.config.steps} steps, got one of "
                f"{found.steps}; the rate follows from it: start anew in another folder"
            )
        self.stage.load_state(dict(found.tensors["stage"]))
        self.optimizer.load_state(found.tensors["optimizer"])
        set_random_state(found.tensors["random"], self.config.device)
        self.history.restore(found.history)
        self.history.skipped, self.done = found.skipped, found.step
        say(f"{self.stage.name}: goes on after step {self.done} of {self.config.steps}")
