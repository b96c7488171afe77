"""Negatives of earlier steps: a ring of a momentum encoder's keys (MoCo's memory bank, SCL). K rows, D dims, batches of B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from moontide.errors import Misconfigured

UNKNOWN: Final = -1
_PLACE: Final = "place"


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Rows of a queue, or rows for it, without gradient.

    Attributes:
        vectors: (K, D) float32.
        items, labels, categories: (K,) int64; labels and categories are -1 where unknown.
        days: (K,) float64 days since any one day; NaN where unknown.
        log_q: (K,) float32 log probability of drawing the row; 0 where not counted.
    """

    vectors: Tensor
    items: Tensor
    labels: Tensor
    categories: Tensor
    days: Tensor
    log_q: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(
        cls,
        vectors: Tensor,
        items: Tensor,
        *,
        labels: Tensor | None = None,
        categories: Tensor | None = None,
        days: Tensor | None = None,
        log_q: Tensor | None = None,
    ) -> Keys:
        """Rows with what is known of them.

        Raises:
            Misconfigured: not as many of each as there are vectors.
        """
        count, device = len(vectors), vectors.device

        def unless(column: Tensor | None, value: float, dtype: torch.dtype) -> Tensor:
            if column is None:
                return torch.full((count,), value, dtype=dtype, device=device)
            return column.detach().to(dtype)

        keys = cls(
            vectors.detach().to(torch.float32),
            items.to(torch.int64),
            unless(labels, UNKNOWN, torch.int64),
            unless(categories, UNKNOWN, torch.int64),
            unless(days, float("nan"), torch.float64),
            unless(log_q, 0.0, torch.float32),
        )
        for name, column in keys.columns().items():
            if len(column) != len(vectors):
                raise Misconfigured(f"keys: expected {len(vectors)} {name}, one a vector, got {len(column)}")
        return keys

    def columns(self) -> dict[str, Tensor]:
        """Every field by its name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def take(self, rows: Tensor | slice) -> Keys:
        """A mask's, an index's or a slice's rows."""
        return Keys(**{name: column[rows] for name, column in self.columns().items()})


class NegativeQueue:
    """First in, first out: the newest `size` keys.

    Args:
        size: K at most; 0 keeps none.
        dim: D.
        device: where the rows live.
    """

    def __init__(self, size: int, dim: int, device: torch.device | str = "cpu") -> None:
        self.size, self.dim = size, dim
        empty = Keys.of(torch.zeros(size, dim, device=device), torch.full((size,), UNKNOWN, device=device))
        self._ring = empty
        self._next = self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, keys: Keys) -> int:
        """Add rows, the last ones newest; the oldest make room.

        Returns:
            Rows left out because a component was not finite: one such negative would make every later loss NaN.

        Raises:
            Misconfigured: vectors of another width.
        """
        if keys.vectors.ndim != 2 or keys.vectors.shape[1] != self.dim:
            raise Misconfigured(
                f"queue: expected (B, {self.dim}) keys, got {tuple(keys.vectors.shape)}; size it by the model's dim"
            )
        finite = torch.isfinite(keys.vectors).all(dim=1)
        sound = keys if bool(finite.all()) else keys.take(finite)
        dropped = len(keys) - len(sound)
        if not self.size or not len(sound):
            return dropped
        newest = sound.take(slice(-self.size, None))
        places = (torch.arange(len(newest)) + self._next) % self.size
        for name, column in self._ring.columns().items():
            column[places] = getattr(newest, name).to(column.device)
        self._next = (self._next + len(newest)) % self.size
        self._count = min(self._count + len(newest), self.size)
        return dropped

    def rows(self) -> Keys:
        """The rows there are, oldest first, as copies: the graph of a loss outlives the next push."""
        oldest = self._next if self._count == self.size else 0
        places = (torch.arange(self._count) + oldest) % max(self.size, 1)
        return self._ring.take(places)

    def state(self) -> dict[str, Tensor]:
        """Copies of everything, for a checkpoint."""
        columns = {name: column.clone() for name, column in self._ring.columns().items()}
        return {**columns, _PLACE: torch.tensor([self._next, self._count])}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave, bit for bit.

        Raises:
            Misconfigured: names, shapes or dtypes differ, or the place is none of this ring.
        """
        expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.state().items()}
        got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        if got != expected:
            raise Misconfigured(f"queue: expected the state {expected}, got {got}; resume with the config it was written with")
        place, count = (int(number) for number in state[_PLACE])
        # Rows fill up from 0, so a ring that is not full goes on where its rows end.
        if not (0 <= count <= self.size and (place == count or (count == self.size and 0 <= place < max(self.size, 1)))):
            raise Misconfigured(f"queue: expected a place in {self.size} rows, got {place} of {count}; the checkpoint is damaged")
        for name, column in self._ring.columns().items():
            column.copy_(state[name])
        self._next, self._count = place, count


def near(keys: Keys, categories: Tensor, days: Tensor, *, window: float, least: int) -> Tensor:
    """Spatio-temporal negatives (MOON Embedding's second stage): rows of a query's own category and of its time.

    Our reading: "spatial" is the category, "temporal" the day of the event; an unknown day is near every other.

    Args:
        keys: K rows of a queue.
        categories, days: (B,) int64 and float64 of the batch; -1 and NaN where unknown.
        window: days that a row may lie before or after.
        least: a query with fewer such rows, or of unknown category, sees all rows instead.

    Returns:
        (B, K) bool: `allowed` of the losses with a queue.
    """
    alike = (categories[:, None] == keys.categories[None, :]) & (categories >= 0)[:, None]
    gap = (days[:, None] - keys.days[None, :]).abs()
    chosen: Tensor = alike & ~(gap > window)
    return chosen | (chosen.sum(dim=1, keepdim=True) < max(least, 1))
