"""What the training loop asks of a stage of training. The loop knows nothing of pictures, texts or pairs."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from torch import Tensor

BatchT = TypeVar("BatchT")


class Stage(Protocol[BatchT]):
    """One stage: draws batches, computes losses, and can be put to sleep and woken bit for bit."""

    name: str

    def draw(self, step: int) -> BatchT:
        """The batch of `step`: a pure function of seed and step, so that another thread may draw ahead."""
        ...

    def losses(self, batch: BatchT) -> dict[str, Tensor]:
        """Weighted scalar losses by name; their sum is minimised."""
        ...

    def after_step(self, batch: BatchT, done: float) -> None:
        """Called after the optimiser's step: momentum encoder, queues. `done` is the share of the stage that is over."""
        ...

    def pairs_in(self, batch: BatchT) -> int:
        """Pairs of a batch, for pairs/s."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW with their peak ``lr`` and ``weight_decay``."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by a flat name: model, momentum encoder, queues, counters."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave. Raises Misconfigured: names or shapes differ."""
        ...

    def validate(self) -> dict[str, float]:
        """Recall on the validation split, cheap enough to be asked ten times in a run."""
        ...
