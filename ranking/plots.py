"""Plots of a comparison: differences with intervals, gain against L, curves over epochs, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen before)

from ranking.results import about, heading, title  # noqa: E402

FIGURE: Final = "whole gauc"
#: Rows of the calibration plot: more lines than these hide each other.
CALIBRATED: Final = ("id", "raw", "simtier", "make", "simtier_make")

Body = Mapping[str, Any]


def draw_all(body: Body, folder: Path, *, prefix: str = "", ending: str = "png") -> list[Path]:
    """Draw what the comparison has the figures for; the files, e.g. ``<prefix>differences.png``."""
    drawn = {
        "differences": draw_differences, "lengths": draw_lengths, "curves": draw_curves, "calibration": draw_calibration
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in drawn.items():
        figure = draw(body)
        if figure is not None:
            paths.append(folder / f"{prefix}{name}.{ending}")
            figure.savefig(paths[-1], dpi=110)
            plt.close(figure)
    return paths


def draw_differences(body: Body) -> Any:
    """GAUC less the base's: a panel a variant, a line of points a row, a colour a length."""
    variants = list(dict.fromkeys(group["variant"] for group in body["groups"]))
    names = _names(body)
    if not names:
        return None
    size = (5.0 * len(variants) + 1.5, 0.45 * len(names) + 1.6)
    figure, panels = plt.subplots(1, len(variants), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axes, variant in zip(panels[0], variants, strict=True):
        groups = [group for group in body["groups"] if group["variant"] == variant]
        for at, group in enumerate(groups):
            found = _differences(group)
            shift = 0.22 * (at - (len(groups) - 1) / 2)
            y = [names.index(name) + shift for name in found]
            x, ends = _bars(list(found.values()))
            axes.errorbar(x, y, xerr=ends, fmt="o", markersize=4, capsize=2, label=f"L = {group['length']}")
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_title(about(groups[0]), fontsize=9)
        axes.set_xlabel("GAUC less ID, points; 95 % over seeds and users", fontsize=8)
        axes.legend(fontsize=8)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0][0].invert_yaxis()
    return figure


def draw_lengths(body: Body) -> Any:
    """GAUC less the base's against L, for variants with two lengths or more; controls apart."""
    variants = [
        variant for variant in dict.fromkeys(group["variant"] for group in body["groups"])
        if sum(group["variant"] == variant for group in body["groups"]) > 1
    ]  # fmt: skip
    if not variants:
        return None
    figure, panels = plt.subplots(1, len(variants), figsize=(7.5 * len(variants), 4.2), squeeze=False, layout="constrained")
    for axes, variant in zip(panels[0], variants, strict=True):
        groups = sorted(
            (group for group in body["groups"] if group["variant"] == variant), key=lambda group: int(group["length"])
        )
        names = _names({"groups": groups}, controls=False)
        for number, (name, (color, dashes)) in enumerate(zip(names, _styles(groups, names), strict=True)):
            found = {group["length"]: _differences(group)[name] for group in groups if name in _differences(group)}
            y, ends = _bars(list(found.values()))
            # Side by side, or one bar would hide the others.
            x = np.array(list(found)) * 1.025 ** (number - (len(names) - 1) / 2)
            axes.errorbar(
                x, y, yerr=ends, color=color, linestyle=dashes, marker="o", markersize=3, capsize=2, linewidth=1, label=name
            )
        axes.set_xscale("log")
        axes.set_xticks([group["length"] for group in groups], [str(group["length"]) for group in groups])
        axes.minorticks_off()
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xlabel("L, behaviours of a history")
        axes.set_ylabel("GAUC less ID at the same L, points", fontsize=8)
        axes.set_title(about(groups[0]), fontsize=9)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _styles(groups: Sequence[Body], names: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and line of each row: a colour a model, a line a space."""
    rows = {title(row): (row["model"], row["space"]) for group in groups for row in group["rows"]}
    models, spaces = (list(dict.fromkeys(rows[name][part] for name in names)) for part in (0, 1))
    lines = ("-", "--", ":", "-.")
    return [(f"C{models.index(rows[name][0]) % 10}", lines[spaces.index(rows[name][1]) % 4]) for name in names]


def draw_curves(body: Body) -> Any:
    """Validation GAUC and log-loss after each epoch: of the ID model, and of the multimodal model that MAKE brings."""
    lines = [(title(each), each["curve"]) for each in body["curves"] if each["curve"] and not each["make_curve"]]
    lines += [("MAKE's multimodal model", each["make_curve"]) for each in body["curves"] if each["make_curve"]]
    if not lines:
        return None
    figure, panels = plt.subplots(
        2, len(lines), figsize=(4.2 * len(lines), 5.5), squeeze=False, sharex="col", layout="constrained"
    )
    for column, (name, curve) in enumerate(lines):
        epochs = [record["epoch"] for record in curve]
        gauc, loss = ([_value(record["validation"][key]) for record in curve] for key in ("gauc", "log_loss"))
        panels[0][column].plot(epochs, 100 * np.array(gauc), "o-", markersize=3)
        panels[0][column].set_title(f"{name}: validation", fontsize=9)
        panels[1][column].plot(epochs, loss, "o-", markersize=3, label="validation")
        panels[1][column].plot(epochs, [_value(record["train_loss"]) for record in curve], "o--", markersize=3, label="training")
        panels[1][column].set_xlabel("epoch")
        panels[1][column].set_xticks(epochs)
        panels[1][column].legend(fontsize=8)
    panels[0][0].set_ylabel("GAUC, %")
    panels[1][0].set_ylabel("log-loss")
    return figure


def draw_calibration(body: Body) -> Any:
    """Share of positives against the mean probability, by tenths of the score, of the first group."""
    group = body["groups"][0]
    rows = [row for row in group["rows"] if row["model"] in CALIBRATED and row["segments"]]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(4.8, 4.5), layout="constrained")
    for row in rows:
        points = [(each["predicted"], each["observed"]) for each in row["segments"]]
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=title(row))
    top = max(value for row in rows for each in row["segments"] for value in each.values())
    axes.plot([0, top], [0, top], color="black", linewidth=0.6)
    axes.set_xlabel("mean probability of a tenth")
    axes.set_ylabel("share of positives")
    axes.set_title(heading(group), fontsize=9)
    axes.legend(fontsize=7)
    return figure


def _names(body: Body, *, controls: bool = True) -> list[str]:
    rows = [row for group in body["groups"] for row in group["rows"] if controls or not row["control"]]
    return list(dict.fromkeys(title(row) for row in rows if row["figures"].get(FIGURE, {}).get("difference") is not None))


def _differences(group: Body) -> dict[str, tuple[float, float, float]]:
    """(difference, low, high) in points by row."""
    found = {}
    for row in group["rows"]:
        figure = row["figures"].get(FIGURE, {})
        if figure.get("difference") is not None:
            found[title(row)] = tuple(100 * _value(figure[key]) for key in ("difference", "low", "high"))
    return found  # type: ignore[return-value]


def _bars(found: Sequence[tuple[float, float, float]]) -> tuple[list[float], Any]:
    """Values, and (2, n) distances to the ends; an end that is not known has none."""
    values = np.array(found).reshape(-1, 3)
    ends = np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
    return values[:, 0].tolist(), np.nan_to_num(np.maximum(ends, 0))


def _value(value: float | None) -> float:
    return float("nan") if value is None else float(value)
