"""What one scenario counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Figures:
    """`findings` must be empty. Times in seconds; `slowest_ms` is p99 of right answers."""

    scenario: str
    requests: int = 0
    right: int = 0
    wrong: int = 0
    typed: Counter = field(default_factory=Counter)
    untyped: Counter = field(default_factory=Counter)
    faults: int = 0
    recovery: list[float] = field(default_factory=list)
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    batches: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def expect(self, fact, what):
        """A finding where `fact` does not hold."""
        if not fact:
            self.findings.append(what)
