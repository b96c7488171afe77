"""Markdown tables, and the ablation's figures: mean, spread and paired difference over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

#: 97.5 % quantiles of Student's t by degrees of freedom; beyond, the normal's 1.96 is at most 0.09 too small.
_T: Final = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)

Measures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Effect:
    """One measure with a switch flipped, in points (hundredths of the measure), over the seeds that both sides have.

    `spread` is the standard deviation over seeds, NaN for one; `low`, `high` are the 95 % interval of the paired difference by
    Student's t over seeds, NaN for fewer than two.
    """

    mean: float
    spread: float
    difference: float
    low: float
    high: float
    seeds: int

    @property
    def clear(self) -> bool:
        """The interval is known and excludes zero."""
        return self.low > 0 or self.high < 0


def effect(base: Mapping[int, float], flipped: Mapping[int, float]) -> Effect | None:
    """Values by seed of one measure, in 0..1; None where no seed is on both sides."""
    seeds = sorted(set(base) & set(flipped))
    if not seeds:
        return None
    values = 100.0 * np.array([flipped[seed] for seed in seeds])
    differences = values - 100.0 * np.array([base[seed] for seed in seeds])
    count, mean = len(seeds), float(differences.mean())
    spread = float(values.std(ddof=1)) if count > 1 else float("nan")
    half = student(count) * float(differences.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
    return Effect(float(values.mean()), spread, mean, mean - half, mean + half, count)


def student(count: int) -> float:
    """97.5 % quantile of Student's t for the mean of `count` >= 2 values."""
    return _T[count - 2] if count - 2 < len(_T) else 1.96


def effects(base: Mapping[int, Measures], flipped: Mapping[int, Measures]) -> dict[str, Effect]:
    """`effect` of every measure that both sides have in some seed, in name order."""
    names = sorted({name for run in base.values() for name in run} & {name for run in flipped.values() for name in run})
    found = {}
    for name in names:
        got = effect(*({seed: run[name] for seed, run in side.items() if name in run} for side in (base, flipped)))
        if got is not None:
            found[name] = got
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first column is to the left, the others to the right. Ends with a new line."""
    lines = [list(header), ["---", *(["---:"] * (len(header) - 1))], *(list(row) for row in rows)]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + "\n"


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """A figure, or a dash where there is none."""
    if not np.isfinite(value):
        return "-"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def span(low: float, high: float, digits: int = 2) -> str:
    """An interval, or a dash where it is not known."""
    return f"{low:+.{digits}f} to {high:+.{digits}f}" if np.isfinite(low) and np.isfinite(high) else "-"
