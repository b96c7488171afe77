"""Whether an encoder trained again is as good as the shipped one: its figures against their spread over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoders.study.tables import Measures, markdown, number
from moontide.errors import Misconfigured

#: A figure may lie so many standard deviations, and so much besides, below the mean: three seeds know little of the spread.
SPREADS, SLACK = 3.0, 0.01
#: The split that manifests promise.
SPLIT: Final = "test"


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation (n - 1) of a measure over seeds, in 0..1."""

    mean: float
    std: float

    @property
    def least(self) -> float:
        """What a run that went as it should reaches."""
        return self.mean - SPREADS * self.std - SLACK


def measures_in(artifact: Path) -> dict[str, float]:
    """``"<data set>/<task> <measure>"`` to the value in 0..1 that the manifest in the folder `artifact` states of the test split.

    Raises:
        Misconfigured: no manifest with such figures.
    """
    body = _read(artifact / "manifest.json")
    try:
        tasks = body["metrics"][SPLIT]["trained"]
        return {f"{task} {name}": float(value) for task, by in tasks.items() for name, value in by.items() if name != "queries"}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Misconfigured(
            f"{artifact}: expected a manifest with figures of the {SPLIT} split, got {error!r}; train anew"
        ) from error


def spread_of(runs: Sequence[Measures]) -> dict[str, Spread]:
    """Of the measures that every run has, in name order.

    Raises:
        Misconfigured: fewer than two runs.
    """
    if len(runs) < 2:
        raise Misconfigured(f"seeds: expected artifacts of two seeds or more, got {len(runs)}; a spread needs them")
    names = sorted(set.intersection(*(set(run) for run in runs)))
    columns = {name: [run[name] for run in runs] for name in names}
    return {name: Spread(statistics.fmean(values), statistics.stdev(values)) for name, values in columns.items()}


def spread_json(found: Mapping[str, Spread], seeds: int) -> dict[str, Any]:
    """What `read_spread` reads."""
    measures = {name: {"mean": each.mean, "std": each.std} for name, each in found.items()}
    return {"format_version": 1, "split": SPLIT, "seeds": seeds, "measures": measures}


def read_spread(path: Path) -> dict[str, Spread]:
    """The file that ``python -m encoders.study seeds`` writes.

    Raises:
        Misconfigured: another file, or one without a measure.
    """
    body = _read(path)
    try:
        found = {name: Spread(float(each["mean"]), float(each["std"])) for name, each in body["measures"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Misconfigured(
            f"{path}: expected mean and std of measures, got {error!r}; write it with `encoders.study seeds`"
        ) from error
    if not found:
        raise Misconfigured(f"{path}: expected at least one measure, got none; write it with `encoders.study seeds`")
    return found


def worse(rebuilt: Measures, spread: Mapping[str, Spread]) -> list[str]:
    """Measures that `rebuilt` lacks, or has below `Spread.least`."""
    return [name for name, each in spread.items() if not rebuilt.get(name, float("nan")) >= each.least]


def table(rebuilt: Measures, shipped: Measures, spread: Mapping[str, Spread]) -> str:
    """Markdown, in points (hundredths): the shipped encoder, the one trained again, and what it may not fall below."""
    below = set(worse(rebuilt, spread))
    rows = []
    for name, each in spread.items():
        values = (shipped.get(name, float("nan")), rebuilt.get(name, float("nan")), each.mean, each.std, each.least)
        rows.append([name, *(number(100.0 * value) for value in values), "WORSE" if name in below else "ok"])
    return markdown(["measure", "shipped", "trained again", "mean of seeds", "spread", "at least", ""], rows)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path}: expected a JSON file, got {type(error).__name__} {error}; check the path") from error
