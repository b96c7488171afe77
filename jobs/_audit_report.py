"""What an audit found, counted and listed, as one JSON file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jobs._audit_log import Kind, Requests

FORMAT_VERSION: Final = 1
#: Differing values of a feature whose ages are kept; of more, a sample of so many.
_AGES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that was served and could not be made again. `logged` and `rebuilt` are JSON values."""

    request_id: str
    user_id: str
    item_id: str | None
    feature: str
    reason: str
    logged: Any = None
    rebuilt: Any = None


@dataclass(slots=True)
class Tally:
    """Counts of one audit.

    Attributes:
        most: differences that are listed; all are counted.
        not_compared: values that could not be made again because of a difference that is counted elsewhere.
    """

    most: int
    requests: int = 0
    candidates: int = 0
    compared: int = 0
    not_compared: int = 0
    services: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    listed: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference) -> None:
        """Count a difference."""
        self.found[difference.feature, difference.reason] += 1
        if len(self.listed) < self.most:
            self.listed.append(difference)

    def saw(self, kind: Kind, requests: int, candidates: int) -> None:
        """Count requests."""
        self.requests += requests
        self.candidates += candidates
        self.services[kind.service] += requests

    @property
    def differences(self) -> int:
        """All of them."""
        return self.found.total()

    def report(self) -> dict[str, Any]:
        """For the JSON file."""
        features, reasons = Counter[str](), Counter[str]()
        for (feature, reason), count in self.found.items():
            features[feature] += count
            reasons[reason] += count
        return {
            "requests": self.requests,
            "candidates": self.candidates,
            "services": dict(self.services),
            "values_compared": self.compared,
            "values_not_compared": self.not_compared,
            "notes": dict(self.notes),
            "differences": self.differences,
            "by_reason": dict(reasons),
            "by_feature": dict(features),
            "listed": [{name: getattr(d, name) for name in Difference.__slots__} for d in self.listed],
        }


class Skew:
    """How often a feature had another value than a replay by time, and how far apart the two were in time.

    Args:
        random: draws the sample of ages where there are more than 65,536; shares and maxima are exact.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._compared: Counter[str] = Counter()
        self._differing: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._ages: dict[str, list[float]] = {}
        self._oldest: dict[str, float] = {}

    def add(self, feature: str, differs: NDArray[np.bool_], ages_us: NDArray[np.int64] | None = None) -> None:
        """Count B values of a feature; `ages_us` (B,) says how much older one record was than the other."""
        self._compared[feature] += len(differs)
        self._differing[feature] += int(differs.sum())
        if ages_us is None or not differs.any():
            return
        ages = np.abs(ages_us[differs]) / 1e6
        self._oldest[feature] = max(self._oldest.get(feature, 0.0), float(ages.max()))
        kept = self._ages.setdefault(feature, [])
        for age in ages.tolist():
            self._seen[feature] += 1
            if len(kept) < _AGES:
                kept.append(age)
            elif (at := int(self._random.integers(self._seen[feature]))) < _AGES:
                kept[at] = age

    def report(self) -> dict[str, dict[str, float | int | None]]:
        """By feature: compared, differing, share, median_age_seconds and max_age_seconds (null where none has an age)."""
        return {
            feature: {
                "compared": count,
                "differing": self._differing[feature],
                "share": self._differing[feature] / count if count else 0.0,
                "median_age_seconds": float(np.median(self._ages[feature])) if self._ages.get(feature) else None,
                "max_age_seconds": self._oldest.get(feature),
            }
            for feature, count in self._compared.items()
        }


def of_candidates(requests: Requests, rows: Sequence[int], feature: str, reason: str) -> list[Difference]:
    """One difference for each of some of the R candidates."""
    owner = requests.owner(requests.cand_offsets)
    return [_of(requests, int(owner[row]), requests.item_ids[row].as_py(), feature, reason) for row in rows]


def of_history(requests: Requests, rows: Sequence[int], feature: str, reason: str) -> list[Difference]:
    """One difference for each of some of the H behaviours."""
    owner = requests.owner(requests.hist_offsets)
    return [_of(requests, int(owner[row]), requests.history_ids[row].as_py(), feature, reason) for row in rows]


def _of(requests: Requests, at: int, item: str, feature: str, reason: str) -> Difference:
    return Difference(requests.ids[at], requests.users[at].as_py(), item, feature, reason)


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.part")
    with staged.open("w", encoding="utf-8") as file:
        json.dump({"format_version": FORMAT_VERSION, **report}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
