"""A stage small enough for a unit test, with all that makes resuming hard: dropout, a momentum copy, a queue, a batch norm."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS, WIDTH, DIM, QUEUE = 6, 5, 4, 16


class TinyStage:
    """Learns that a vector is like its noisy copy. `spoil` is the step (from 0) whose loss, or gradient, is no number."""

    def __init__(self, name: str = "pretrain", *, seed: int = 0, spoil: int | None = None, how: str = "loss") -> None:
        self.name, self.seed, self.spoil, self.how = name, seed, spoil, how
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, DIM))
        self.momentum = copy.deepcopy(self.model).requires_grad_(False)
        self.queue = functional.normalize(torch.randn(QUEUE, DIM), dim=1)
        self.head = torch.zeros(1, dtype=torch.int64)
        self.drawn: list[int] = []
        self.validated = 0

    def draw(self, step: int) -> dict[str, Any]:
        self.drawn.append(step)
        random = torch.Generator().manual_seed(self.seed * 1000 + step)
        x = torch.randn(ROWS, WIDTH, generator=random)
        return {"x": x, "noisy": x + 0.1 * torch.randn(ROWS, WIDTH, generator=random), "step": step}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        query = functional.normalize(self.model(batch["x"]), dim=1)
        with torch.no_grad():
            key = functional.normalize(self.momentum(batch["noisy"]), dim=1)
        logits = query @ torch.cat([key, self.queue]).T / 0.1
        contrast = functional.cross_entropy(logits, torch.arange(len(query)))
        size = 1e-3 * query.pow(2).mean()
        if batch["step"] == self.spoil:
            if self.how == "loss":
                size = size * float("nan")
            else:
                size = size + torch.sqrt(self.model[4].bias.pow(2).sum() * 0.0)
        self.key = key
        return {"contrast": contrast, "size": size}

    def after_step(self, batch: dict[str, Any], done: float) -> None:
        with torch.no_grad():
            for old, new in zip(self.momentum.parameters(), self.model.parameters(), strict=True):
                old.mul_(0.9).add_(new, alpha=0.1 + 0.0 * done)
            rows = (torch.arange(ROWS) + self.head) % QUEUE
            self.queue[rows] = self.key
            self.head += ROWS

    def pairs_in(self, batch: dict[str, Any]) -> int:
        return len(batch["x"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(self.model[:2].parameters()), "lr": 1e-2, "weight_decay": 1e-3},
            {"params": list(self.model[2:].parameters()), "lr": 2e-2, "weight_decay": 0.0},
        ]

    def state(self) -> dict[str, Tensor]:
        parts = {"model": self.model, "momentum": self.momentum}
        tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        return {**tensors, "queue": self.queue, "head": self.head}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, part in (("model", self.model), ("momentum", self.momentum)):
            part.load_state_dict({key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")})
        self.queue, self.head = state["queue"].clone(), state["head"].clone()

    def validate(self) -> dict[str, float]:
        self.validated += 1
        return {"recall@1": min(1.0, 0.1 * self.validated)}

    def item_ids(self, batch: dict[str, Any]) -> list[str]:
        return [f"i{batch['step']}_{row}" for row in range(ROWS)]
