"""What one run counts."""

from __future__ import annotations

from dataclasses import dataclass, field


class Broken(AssertionError):
    """The consumer did not do what the scenario waits for."""


@dataclass
class Figures:
    """What one run counted; `findings` must be empty."""

    scenario: str
    fault: str
    seed: int
    events: int = 0
    acked: int = 0
    kills: int = 0
    kills_of_others: int = 0
    interruptions: int = 0
    applied: int = 0
    stale: int = 0
    unchanged: int = 0
    dead: int = 0
    lost: int = 0
    duplicated: int = 0
    stale_overwrites: int = 0
    zombies: int = 0
    mixed: int = 0
    unsafe_commits: int = 0
    samples: int = 0
    recovery: list[float] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    findings: int = 0
    explained: str = ""
