"""A comparison as JSON, from the runs that are done: figures, and paired differences to the base and between all rows.

``table.json``: ``format_version``, ``command``, ``config``, ``data_digest``, ``draws``, ``groups`` and ``curves``.
A group, one per variant and length: ``variant``, ``length``, ``base``; ``card`` and ``settings`` of the base's first run;
``slices`` (rows, positives and users of each), ``rows``, ``pairs``.
A row: ``name``, ``model``, ``space``, ``control``, ``seeds`` (those that the base has too), ``seconds`` (mean of a run);
``figures`` by ``"<slice> <measure>"``: ``value``, ``spread`` (standard deviation over seeds), ``difference`` to the base and its
95 % interval, ``low`` to ``high``; ``segments`` of the whole set (means over seeds); ``recalibrated``: ``slope``, ``intercept``,
``before`` and ``after`` as in a run file (means over seeds), null where a run has none.
A pair of rows: ``first``, ``second``, ``seeds``, and ``figures``: differences ``first`` less ``second`` of `PAIRED`.
Figures are shares (0..1) and nats; what does not exist is null.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.study.runs import RESULT
from moontide.errors import Misconfigured
from ranking.config import RankingConfig
from ranking.evaluation import WHOLE
from ranking.plan import CURVE, ROW, Point
from ranking.resampling import Resampler, mean_of, paired
from ranking.run_file import RunFile, TestRows, read_rows, read_run, rows_path

FORMAT_VERSION: Final = 1
PAIRED: Final = ("whole gauc", "whole auc", "whole log_loss", "new_items gauc")
DRAWN: Final = "draws.npz"

Figures = dict[str, NDArray[np.float64]]


@dataclass(slots=True)
class Row:
    """Runs of one row by seed, with their figures under every draw."""

    model: str
    space: str
    runs: dict[int, RunFile] = field(default_factory=dict)
    figures: dict[int, Figures] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Model and space."""
        return f"{self.model}/{self.space}" if self.space else self.model


def summarise(
    points: Sequence[Point], root: Path, config: RankingConfig, *, draws: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """``draws``, ``groups`` and ``curves`` of these points, whose runs below `root` are done.

    Raises:
        Misconfigured: a run that cannot be read, or runs of one variant with other test impressions.
    """
    groups, resamplers = [], dict[str, Resampler]()
    for variant, length in dict.fromkeys((point.variant, point.length) for point in points if point.kind == ROW):
        members = [point for point in points if (point.variant, point.length, point.kind) == (variant, length, ROW)]
        rows = _rows(members, root, resamplers, draws)
        say(f"{variant}, L = {length}: {len(rows)} rows")
        groups.append({"variant": variant, "length": length, **_group(list(rows.values()), config, resamplers[variant])})
    curves = [_curve(point, read_run(root / point.name / RESULT)) for point in points if point.kind == CURVE]
    return {"draws": draws, "groups": groups, "curves": curves}


def _rows(points: Sequence[Point], root: Path, resamplers: dict[str, Resampler], draws: int) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for point in points:
        folder = root / point.name
        run = read_run(folder / RESULT)
        test = read_rows(rows_path(folder, run.body["rows"]["digest"]))
        resampler = resamplers.setdefault(point.variant, Resampler(test, draws=draws))
        _check_same(resampler.rows, test, point)
        row = Row(point.model, point.space)
        row = rows.setdefault(row.name, row)
        row.runs[point.seed] = run
        row.figures[point.seed] = resampler.kept_figures(folder / DRAWN, run.logits)
    return rows


def _check_same(first: TestRows, other: TestRows, point: Point) -> None:
    if first.digest != other.digest:
        raise Misconfigured(
            f"{point.name}: expected the test impressions of the other runs ({first.digest}), got {other.digest}; "
            "delete its folder and compare again"
        )


def _group(rows: Sequence[Row], config: RankingConfig, resampler: Resampler) -> dict[str, Any]:
    base = next((row for row in rows if row.model == config.compare.base), None)
    first = next(iter((base or rows[0]).runs.values())).body
    slices = {name: {key: part[key] for key in ("rows", "positives", "users")} for name, part in first.get("test", {}).items()}
    return {
        "base": config.compare.base,
        "card": first.get("card", {}),
        "settings": first.get("settings", {}),
        "slices": slices,
        "rows": [_row(row, base, config, resampler) for row in rows],
        "pairs": [_pair(one, other, resampler) for one, other in combinations(rows, 2)],
    }


def _row(row: Row, base: Row | None, config: RankingConfig, resampler: Resampler) -> dict[str, Any]:
    seeds = _common(row, base) if base is not None else sorted(row.figures)
    against = None if base is row else base
    figures = {name: _figure(name, row, against, seeds, resampler) for name in row.figures[min(row.figures)]}
    bodies = [row.runs[seed].body for seed in seeds]
    return {
        "name": row.name, "model": row.model, "space": row.space, "control": config.model(row.model).shuffle, "seeds": seeds,
        "seconds": statistics.fmean(body.get("seconds", 0.0) for body in bodies) if bodies else None,
        "figures": figures, "segments": _segments([body.get("test", {}) for body in bodies]),
        "recalibrated": _means([body.get("recalibrated") for body in bodies]),
    }  # fmt: skip


def _figure(name: str, row: Row, base: Row | None, seeds: Sequence[int], resampler: Resampler) -> dict[str, float | None]:
    if not seeds:
        return dict.fromkeys(("value", "spread", "difference", "low", "high"))
    values = [row.figures[seed][name] for seed in seeds]
    spread = float(np.std([each[0] for each in values], ddof=1)) if len(seeds) > 1 else float("nan")
    found = {"value": mean_of(values), "spread": spread}
    if base is None:
        return {**found, "difference": None, "low": None, "high": None}
    return {**found, **_difference(row, base, name, seeds, resampler)}


def _difference(row: Row, base: Row, name: str, seeds: Sequence[int], resampler: Resampler) -> dict[str, float | None]:
    less, more = ([side.figures[seed][name] for seed in seeds] for side in (base, row))
    found = asdict(paired(less, more, resampler.seeds(len(seeds))))
    return {"difference": found.pop("value"), **found}


def _pair(one: Row, other: Row, resampler: Resampler) -> dict[str, Any]:
    seeds = _common(one, other)
    names = [name for name in PAIRED if name in one.figures[min(one.figures)]] if seeds else []
    return {
        "first": one.name, "second": other.name, "seeds": seeds,
        "figures": {name: _difference(one, other, name, seeds, resampler) for name in names},
    }  # fmt: skip


def _common(one: Row, other: Row) -> list[int]:
    return sorted(set(one.figures) & set(other.figures))


def _segments(tests: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Means over seeds of the tenths, where all seeds have as many."""
    found = [test[WHOLE]["segments"] for test in tests if WHOLE in test]
    if not found or len({len(each) for each in found}) > 1:
        return []
    return [
        {key: statistics.fmean(each[key] for each in tenth) for key in ("predicted", "observed")}
        for tenth in zip(*found, strict=True)
    ]


def _means(found: Sequence[Any]) -> Any:
    """Means over seeds of numbers in mappings of one shape; None where a seed has none."""
    if not found or any(each is None for each in found):
        return None
    if isinstance(found[0], Mapping):
        return {key: _means([each[key] for each in found]) for key in found[0]}
    return statistics.fmean(found)


def _curve(point: Point, run: RunFile) -> dict[str, Any]:
    return {
        "variant": point.variant, "length": point.length, "model": point.model, "space": point.space, "seed": point.seed,
        "curve": run.body.get("curve", []), "make_curve": run.body.get("make_curve", []),
    }  # fmt: skip
