"""The exchange rate: what a point of recall is worth in GAUC of a CTR model.

Each encoder's titles (and pictures) become one vector file; the ranking trainer is run as a process of its own, because
this package lies below it and must not import it, and its JSON has the AUC of every user under every seed. The ID model is
trained once; each encoder's SimTier model has the same seeds and impressions, so gains are paired by seed and by user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.study.programs import Programs
from encoders.study.recall import evaluate_command, identity_of, measure_of
from encoders.study.runs import HERE, RESULT, Run, python
from encoders.study.slopes import Slope, fit_slope
from encoders.study.tables import markdown, number, span
from moontide.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Subject:
    """An encoder of the study: an artifact, or a Matryoshka prefix of one, written ``PATH@DIM``."""

    name: str
    artifact: Path
    dim: int | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """How the CTR model is trained."""

    data: Path
    seeds: int = 3
    variant: str = "new"
    length: int = 50
    tiers: int = 20
    train_impressions: int | None = None

    def command(self, program: str, features: str, *extra: object) -> tuple[str, ...]:
        """Train the model of these features; leaves ``{run}/result.json``."""
        budget = ["--train-impressions", self.train_impressions] if self.train_impressions else []
        return python(
            program, "--data", self.data, "--features", features, "--seeds", self.seeds, "--variant", self.variant,
            "--length", self.length, "--tiers", self.tiers, "--json", f"{HERE}/{RESULT}", *budget, *extra,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs of the study; `subjects` by name give (recall, ranking)."""

    base: Run
    subjects: Mapping[str, tuple[Run, Run]]

    @property
    def runs(self) -> list[Run]:
        """Every run, cheap ones first."""
        return [*(recall for recall, _ in self.subjects.values()), self.base, *(rank for _, rank in self.subjects.values())]


def subjects_of(texts: Sequence[str]) -> list[Subject]:
    """Parse ``PATH`` or ``PATH@DIM``; names are unique file names.

    Raises:
        Misconfigured: a DIM that is no number.
    """
    found: list[Subject] = []
    for text in texts:
        path, at, dim = text.rpartition("@")
        if at and not dim.isdigit():
            raise Misconfigured(f"artifact {text!r}: expected PATH or PATH@DIM with a number")
        artifact = Path(path if at else text)
        name = artifact.absolute().name + (f"_d{dim}" if at else "")
        same = sum(subject.name.partition(".")[0] == name for subject in found)
        found.append(Subject(f"{name}.{same + 1}" if same else name, artifact, int(dim) if at else None))
    return found


def plan(subjects: Sequence[Subject], ranking: Ranking, programs: Programs, *, queries: int | None = None) -> Plan:
    """Runs of every subject.

    Raises:
        Misconfigured: no artifact at a path.
    """
    cost = 40.0 * ranking.seeds
    made = {}
    for subject in subjects:
        depends = identity_of(subject.artifact)
        measure = evaluate_command(
            subject.artifact, [ranking.data], dim=subject.dim, queries=queries, program=programs.evaluate
        )  # fmt: skip
        vectors = f"{HERE}/vectors.npz"
        prefix = ["--dim", subject.dim] if subject.dim else []
        encode = python(programs.study, "encode", subject.artifact, "--data", ranking.data, "--out", vectors, *prefix)
        rank = ranking.command(programs.rank, "simtier", "--embeddings", vectors)
        made[subject.name] = (
            Run(f"recall-{subject.name}", (measure,), depends, seconds=40.0),
            Run(f"ranking-{subject.name}", (encode, rank), depends, seconds=cost),
        )
    return Plan(Run("ranking-id", (ranking.command(programs.rank, "id"),), seconds=cost), made)


def summary(made: Plan, subjects: Sequence[Subject], root: Path, *, measure: str, seed: int) -> tuple[dict[str, Any], Slope]:
    """The study as JSON, and its line."""
    base = made.base.result(root)
    recalls, gains = [], []
    for subject in subjects:
        recall, rank = made.subjects[subject.name]
        recalls.append(measure_of(recall.result(root), measure, dim=subject.dim))
        gains.append(paired_gains(base, rank.result(root)))
    impressions = np.array(base["users"]["impressions"], np.int64)
    slope = fit_slope(np.array(recalls), np.stack(gains), impressions, seed=seed)
    rows = [
        {"encoder": subject.name, "artifact": str(subject.artifact), "dim": subject.dim,
         "training_cutoff": made.subjects[subject.name][0].depends["training_cutoff"], "recall": recalls[at],
         "gauc_gain": slope.gains[at], "low": slope.gain_low[at], "high": slope.gain_high[at],
         "gauc": float(np.mean([entry["gauc"] for entry in made.subjects[subject.name][1].result(root)["models"]["simtier"]]))}
        for at, subject in enumerate(subjects)
    ]  # fmt: skip
    body = {
        "format_version": 1,
        "measure": measure,
        "id_gauc": float(np.mean([entry["gauc"] for entry in base["models"]["id"]])),
        "seeds": [entry["seed"] for entry in base["models"]["id"]],
        "data": base["data"],
        "settings": base["settings"],
        "encoders": rows,
        "slope": {**asdict(slope), "contains_zero": slope.contains_zero, "verdict": slope.verdict},
    }
    return body, slope


def paired_gains(base: Any, other: Any) -> NDArray[np.float64]:
    """(S, U) AUC of the SimTier model less that of the ID model.

    Raises:
        Misconfigured: the two runs differ in seeds, users or impressions.
    """
    seeds = [[entry["seed"] for entry in entries] for entries in (base["models"]["id"], other["models"]["simtier"])]
    if base["users"] != other["users"] or seeds[0] != seeds[1]:
        raise Misconfigured("exchange rate: expected runs of the same seeds and impressions; delete the study's folder and rerun")
    first, second = (
        np.array([entry["user_auc"] for entry in entries], np.float64)
        for entries in (base["models"]["id"], other["models"]["simtier"])
    )
    return second - first


def table(body: Mapping[str, Any]) -> str:
    """Markdown: a row an encoder, in order of recall, and the verdict."""
    rows = [
        [row["encoder"], row["training_cutoff"] or "-", number(100 * row["recall"], 1), number(100 * row["gauc"]),
         number(row["gauc_gain"], sign=True),
         span(row["low"], row["high"])]
        for row in sorted(body["encoders"], key=lambda row: float(row["recall"]))
    ]  # fmt: skip
    header = ["encoder", "sales seen before", body["measure"], "GAUC", "gain over ID", "95 %"]
    slope = body["slope"]
    near = f"Over seeds and users alone, for these very encoders: {slope['low']:+.3f} to {slope['high']:+.3f}."
    return f"{markdown(header, rows)}\nID alone: GAUC {100 * body['id_gauc']:.2f}. {slope['verdict']}. {near}\n"
