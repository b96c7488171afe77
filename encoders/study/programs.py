"""The programs that a study runs, and the run that trains an encoder and measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encoders.study.recall import EVALUATE, evaluate_command
from encoders.study.runs import HERE, Run, python


@dataclass(frozen=True, slots=True)
class Programs:
    """Modules that are run with ``python -m``."""

    train: str = "encoders.train"
    evaluate: str = EVALUATE
    rank: str = "ranking.gains"
    study: str = "encoders.study"


@dataclass(frozen=True, slots=True)
class Training:
    """What every trained point of a study has in common.

    Args:
        config: name or path of the TOML file.
        data: folders to train on; `measure_on` those to measure on.
        settings: ``section.key=value`` for every run, before the point's own.
        cache: folder of image features that all runs share.
        minutes: expected duration of one run, for estimates.
    """

    config: str
    data: tuple[Path, ...]
    measure_on: tuple[Path, ...]
    settings: tuple[str, ...] = ()
    cache: Path | None = None
    cutoff: str | None = None
    minutes: float = 0.0
    queries: int | None = None

    def run(self, name: str, programs: Programs, *, settings: Sequence[str] = (), arguments: Sequence[str] = ()) -> Run:
        """Train with these settings and flags beside the common ones, then measure; the artifact stays in the run's folder."""
        every = (*self.settings, *settings)
        chosen = ["--set", *every] if every else []
        extra = [*(("--features-cache", self.cache) if self.cache else ()), *(("--cutoff", self.cutoff) if self.cutoff else ())]
        out = f"{HERE}/artifact"
        train = python(
            programs.train, "--config", self.config, *chosen, *arguments, "--data", *self.data, "--out", out, *extra
        )  # fmt: skip
        measure = evaluate_command(out, self.measure_on, queries=self.queries, program=programs.evaluate)
        return Run(name, (train, measure), seconds=60.0 * self.minutes)
