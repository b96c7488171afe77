"""AdamW as the loop uses it: from a stage's groups, along one schedule, and to and from flat tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from encoders.training.contract import Stage
from moontide.errors import Misconfigured

WARM_UP: Final = 0.05


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate in step `step` (from 0): rises to the first twentieth's end, falls to zero along a cosine."""
    warm = max(1, math.ceil(WARM_UP * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


class Optimizer:
    """AdamW over a stage's parameter groups, fused where every parameter allows it.

    Raises:
        Misconfigured: the stage has no parameters to train, or they are not on `device`.
    """

    def __init__(self, stage: Stage[Any], device: str) -> None:
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in stage.parameter_groups()]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        if not self.parameters:
            raise Misconfigured(f"stage {stage.name}: expected parameters to train, got none; switch the stage off instead")
        where = sorted({parameter.device.type for parameter in self.parameters})
        if where != [torch.device(device).type]:
            raise Misconfigured(
                f"stage {stage.name}: expected parameters on {device}, got {where}; train there, or move the model"
            )
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in self.parameters)
        self._stage, self._adam = stage.name, torch.optim.AdamW(groups, fused=fused)
        self._peaks = [float(group["lr"]) for group in self._adam.param_groups]

    def gradients(self, total: Tensor) -> Tensor:
        """Gradients of `total` in place of older ones; returns the norm of all of them together."""
        self._adam.zero_grad(set_to_none=True)
        total.backward()
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def step(self, rate: float, *, norm: Tensor, clip: float | None) -> None:
        """One update at `rate` times the peak rates; gradients of a norm above `clip` are scaled down to it."""
        if clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        for group, peak in zip(self._adam.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate
        self._adam.step()

    def state(self) -> dict[str, Tensor]:
        """Moments and counts of every parameter, named ``<row of the parameter>.<name>``."""
        rows: dict[int, dict[str, Tensor]] = self._adam.state_dict()["state"]
        return {f"{row}.{name}": value for row, values in rows.items() for name, value in values.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave; peak rates and decay stay the stage's.

        Raises:
            Misconfigured: the state is of other parameters.
        """
        rows: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            rows.setdefault(int(number), {})[name] = value
        for row, values in rows.items():
            expected = tuple(self.parameters[row].shape) if row < len(self.parameters) else None
            got = tuple(values["exp_avg"].shape)
            if got != expected:
                raise Misconfigured(
                    f"stage {self._stage}: expected a checkpoint whose parameter {row} has shape {expected}, got {got}; "
                    "it is of another model: start anew in another folder"
                )
        self._adam.load_state_dict({**self._adam.state_dict(), "state": rows})


def random_state(device: str) -> dict[str, Tensor]:
    """State of torch's global generators: dropout draws from them."""
    state = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: str) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
