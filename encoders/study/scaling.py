"""Recall against training pairs, number of negatives and lengths: every point a training run, and a power law through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from encoders.study.exchange import Ranking
from encoders.study.powerlaw import LEAST_POINTS, PowerLaw, fit_power_law
from encoders.study.programs import Programs, Training
from encoders.study.recall import evaluate_command, identity_of, measure_of
from encoders.study.runs import HERE, Run, python
from encoders.study.tables import markdown, number, span
from moontide.errors import Misconfigured

PAIRS: Final = "--pairs-fraction"


@dataclass(frozen=True, slots=True)
class Axis:
    """What is varied.

    Args:
        name: of the curve.
        key: ``section.key`` of the config, or a flag of the trainer such as ``--pairs-fraction``: a training run a point.
            ``length``: behaviours of the ranker's history; a ranking run a point, the error is 1 less GAUC.
            ``words``: of each text; one trained artifact measured on a folder with texts cut, queries and gallery alike.
        values: rising.
    """

    name: str
    key: str
    values: tuple[float, ...]

    @property
    def ranks(self) -> bool:
        """Points are ranking runs."""
        return self.key == "length"

    @property
    def needs_artifact(self) -> bool:
        """Points use one artifact and train none."""
        return self.key in ("length", "words")


AXES: Final = (
    Axis("pairs", PAIRS, (0.05, 0.1, 0.2, 0.4, 1.0)),
    Axis("queue", "pretrain.queue_size", (64, 256, 1024, 4096, 16384)),
    Axis("batch", "pretrain.titles", (24, 48, 96, 192, 384)),
    Axis("history", "length", (5, 10, 20, 50, 100, 200)),
    Axis("text", "words", (1, 2, 3, 4, 6, 8)),
)

Points = dict[Axis, dict[tuple[float, int], Run]]


@dataclass(frozen=True, slots=True)
class Curve:
    """An axis' points (x, seed, score in 0..1; error is 1 less score) and the law through them, None with too few."""

    axis: Axis
    score: str
    points: tuple[tuple[float, int, float], ...]
    law: PowerLaw | None


def parse_axis(text: str) -> Axis:
    """A default axis by name, or ``NAME=KEY:V1,V2,...``.

    Raises:
        Misconfigured: neither.
    """
    for axis in AXES:
        if axis.name == text:
            return axis
    name, _, rest = text.partition("=")
    key, _, values = rest.rpartition(":")
    try:
        numbers = tuple(sorted(float(value) for value in values.split(",")))
    except ValueError:
        numbers = ()
    if not name or not key or len(set(numbers)) < LEAST_POINTS or min(numbers, default=0) <= 0:
        raise Misconfigured(
            f"--axis {text!r}: expected one of {[axis.name for axis in AXES]}, or NAME=KEY:V1,V2,V3 with "
            f"{LEAST_POINTS} or more positive values"
        )
    return Axis(name, key, numbers)


def plan_training(axis: Axis, training: Training, seeds: Sequence[int], programs: Programs) -> dict[tuple[float, int], Run]:
    """A training run for each value and seed."""
    found = {}
    for value in axis.values:
        for seed in seeds:
            # Not 1e+06: that is no whole number to a config.
            shown = str(int(value)) if value == int(value) and axis.key != PAIRS else repr(value)
            flag = axis.key.startswith("--")
            settings = [f"seed={seed}"] if flag else [f"{axis.key}={shown}", f"seed={seed}"]
            arguments = [axis.key, shown] if flag else []
            name = f"{axis.name}-{shown}-{seed}"
            found[(value, seed)] = training.run(name, programs, settings=settings, arguments=arguments)
    return found


def plan_artifact(axis: Axis, ranking: Ranking, artifact: Path | None, programs: Programs) -> dict[tuple[float, int], Run]:
    """A run for each length of history (of all seeds at once) or of text (which has no seed: -1).

    Raises:
        Misconfigured: no artifact was given.
    """
    if artifact is None:
        raise Misconfigured(f"--axis {axis.name}: expected --artifact, which this axis measures; got none")
    found = {}
    for value in axis.values:
        commands = (_rank if axis.ranks else _cut)(int(value), ranking, artifact, programs)
        cost = 40.0 * (ranking.seeds if axis.ranks else 1)
        run = Run(f"{axis.name}-{value:g}", commands, identity_of(artifact), seconds=cost)
        found[(value, -1)] = run
    return found


def _rank(length: int, ranking: Ranking, artifact: Path, programs: Programs) -> tuple[tuple[str, ...], ...]:
    vectors = f"{HERE}/vectors.npz"
    encode = python(programs.study, "encode", artifact, "--data", ranking.data, "--out", vectors)
    return encode, replace(ranking, length=length).command(programs.rank, "simtier", "--embeddings", vectors)


def _cut(words: int, ranking: Ranking, artifact: Path, programs: Programs) -> tuple[tuple[str, ...], ...]:
    folder = f"{HERE}/{ranking.data.absolute().name}"
    cut = python(programs.study, "shorten", "--data", ranking.data, "--words", words, "--out", folder)
    return cut, evaluate_command(artifact, [Path(folder)], program=programs.evaluate)


def curve_of(axis: Axis, runs: Mapping[tuple[float, int], Run], root: Path, *, measure: str, seed: int) -> Curve:
    """Scores of an axis and their law."""
    points: list[tuple[float, int, float]] = []
    for (value, run_seed), run in runs.items():
        body = run.result(root)
        if axis.ranks:
            points += [(value, int(entry["seed"]), float(entry["gauc"])) for entry in body["models"]["simtier"]]
        else:
            points.append((value, run_seed, measure_of(body, measure)))
    x, score = np.array([point[0] for point in points]), np.array([point[2] for point in points])
    law = fit_power_law(x, 1.0 - score, seed=seed) if len(np.unique(x)) >= LEAST_POINTS else None
    return Curve(axis, "GAUC" if axis.ranks else measure, tuple(points), law)


def summary(curves: Sequence[Curve]) -> dict[str, Any]:
    """The study as JSON; a law's figures that are not known are null."""
    return {
        "format_version": 1,
        "error": "1 - score",
        "curves": [
            {
                "axis": curve.axis.name, "key": curve.axis.key, "score": curve.score,
                "points": [{"x": x, "seed": seed, "score": score} for x, seed, score in curve.points],
                "law": None if curve.law is None else {
                    name: value if not isinstance(value, float) or np.isfinite(value) else None
                    for name, value in asdict(curve.law).items()
                },
            }
            for curve in curves
        ],
    }  # fmt: skip


def table(curves: Sequence[Curve]) -> str:
    """Markdown: the laws, then the points of every curve."""
    laws = [_law_row(curve) for curve in curves]
    parts = [markdown(["axis", "score", "error =", "b, 95 %", "R2", "power law"], laws)]
    for curve in curves:
        rows = [[f"{x:g}", *_spread([score for at, _, score in curve.points if at == x])] for x in curve.axis.values]
        parts.append(f"### {curve.axis.name}: {curve.score}\n\n" + markdown([curve.axis.key, "mean", "spread", "runs"], rows))
    return "\n".join(parts)


def _law_row(curve: Curve) -> list[str]:
    law = curve.law
    if law is None:
        return [curve.axis.name, curve.score, "-", "-", "-", f"no: fewer than {LEAST_POINTS} values"]
    form = f"{law.a:.3g} x^-{law.b:.2f} + {law.c:.3f}" if law.b >= 0 else f"{law.a:.3g} x^{-law.b:.2f} + {law.c:.3f}"
    said = "yes" if law.fits else f"no: {law.why}"
    return [curve.axis.name, curve.score, form, span(law.b_low, law.b_high), number(law.r2), said]


def _spread(scores: Sequence[float]) -> list[str]:
    values = 100.0 * np.array(scores)
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return [number(float(values.mean()) if len(values) else float("nan")), number(spread), str(len(values))]
