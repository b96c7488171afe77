"""How a stage shows that it goes on: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import TracebackType

from tqdm import tqdm

from encoders.training.throughput import Speed

Say = Callable[[str], None]


class Progress:
    """Shows steps of one stage.

    Args:
        say: prints a line; used where standard error is no terminal, and for what must stay readable.
        clock: seconds; a line follows `every` seconds after the last one.
    """

    def __init__(self, name: str, steps: int, say: Say, clock: Callable[[], float], *, every: float = 10.0) -> None:
        self._name, self._steps, self._say, self._clock, self._every = name, steps, say, clock, every
        self._bar = tqdm(total=steps, desc=name, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        self._shown = clock() - every
        self._first: int | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, losses: Mapping[str, float], speed: Speed) -> None:
        """`done` steps are over."""
        self._first = done - 1 if self._first is None else self._first
        total = f"loss {sum(losses.values()):.3f}"
        rate = f"{speed.pairs_per_s:.0f} pairs/s, waited {100 * speed.wait_share:.0f} %"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{total}, {rate}", refresh=False)
            self._bar.update(done - self._bar.n)
            return
        if self._clock() - self._shown < self._every and done != self._steps:
            return
        self._shown = self._clock()
        left = speed.seconds / (done - self._first) * (self._steps - done)
        shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._say(f"{self._name} {done}/{self._steps} {total} ({shown}) | {rate}, about {left:.0f} s left")

    def line(self, text: str) -> None:
        """A whole line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.clear()
        self._say(f"{self._name} {text}")
