"""What the threads of one consumer tell each other: who is alive, who waits for what, and why it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

Monotonic = Callable[[], float]


@dataclass(slots=True)
class State:
    """Shared by all threads of one consumer. Each field is written by one thread, or under `lock`.

    Attributes:
        monotonic: seconds of a clock that never goes back.
        random: draws how long a thread waits before it tries again.
        beats: thread -> when it last said that it is not stuck.
        waiting: sink -> why it is retried at the moment.
        assigned: partitions this consumer has; None before the first assignment.
        failed: the error that ends the process.
        stopping: set when the process is to finish what it has begun and end.
        giving_up: set when what is not done by now is to be left to a replay.
        starving_since: since when there are records and none comes; None while they come, or there are none.
    """

    monotonic: Monotonic = time.monotonic
    random: Random = field(default_factory=Random)
    beats: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    assigned: int | None = None
    failed: BaseException | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    giving_up: threading.Event = field(default_factory=threading.Event)
    starving_since: float | None = None

    def beat(self, thread: str) -> None:
        """Say that `thread` is not stuck."""
        self.beats[thread] = self.monotonic()

    def rest(self, thread: str) -> None:
        """Say that `thread` has ended, so that its silence means nothing."""
        self.beats.pop(thread, None)

    def stuck(self, seconds: float) -> list[str]:
        """Threads that have said nothing for longer than `seconds`."""
        now = self.monotonic()
        return sorted(name for name, at in dict(self.beats).items() if now - at > seconds)

    def stalled(self, seconds: float) -> list[str]:
        """Why this process does not get on and only a restart helps; empty when it does."""
        since = self.starving_since
        starving = since is not None and self.monotonic() - since > seconds
        silent = f"for more than {seconds:.0f} s"
        return [f"{name}: nothing heard {silent}" for name in self.stuck(seconds)] + (
            [f"consumer: records are waiting and none was read {silent}"] if starving else []
        )

    def unready(self) -> list[str]:
        """Why this consumer is not doing its work at the moment; empty when it is."""
        problems = [f"{sink}: {why}" for sink, why in sorted(dict(self.waiting).items())]
        if self.assigned is None:
            problems.append("no partitions assigned yet")
        if self.failed is not None:
            problems.append(f"failed: {type(self.failed).__name__}")
        return problems
