"""How fast training is, and for how much of its time it waited for data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """Pairs a second, the share of the time (0 to 1) that was spent waiting for batches, and the seconds themselves."""

    pairs_per_s: float
    wait_share: float
    seconds: float


class Throughput:
    """Counts pairs and waiting from its construction on.

    Args:
        clock: seconds that never go back, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._waited = self._apart = 0.0
        self._pairs = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is waiting for data."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Time inside is not training (validation, checkpoints) and is left out of every figure."""
        began = self._clock()
        try:
            yield
        finally:
            self._apart += self._clock() - began

    def add(self, pairs: int) -> None:
        """Count the pairs of one step."""
        self._pairs += pairs

    def speed(self) -> Speed:
        """Figures so far; zero where no time has passed."""
        seconds = self._clock() - self._started - self._apart
        if seconds <= 0.0:
            return Speed(0.0, 0.0, 0.0)
        return Speed(self._pairs / seconds, min(1.0, self._waited / seconds), seconds)
