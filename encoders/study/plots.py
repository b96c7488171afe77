"""Pictures of the studies, as PNG or SVG by the file's ending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen before)

from encoders.study.scaling import Curve  # noqa: E402


def draw_exchange(body: Mapping[str, Any], path: Path) -> None:
    """Gain over recall with intervals, and the line."""
    rows, slope = body["encoders"], body["slope"]
    recall = np.array([100 * row["recall"] for row in rows])
    gain = np.array([row["gauc_gain"] for row in rows])
    ends = np.array([[row["gauc_gain"] - row["low"], row["high"] - row["gauc_gain"]] for row in rows]).T
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.errorbar(recall, gain, yerr=np.maximum(ends, 0), fmt="o", capsize=3)
    for row, x, y in zip(rows, recall, gain, strict=True):
        axes.annotate(row["encoder"], (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    x = np.linspace(recall.min(), recall.max(), 50)
    axes.plot(x, slope["intercept"] + slope["slope"] * x, color="tab:gray")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xlabel(f"{body['measure']}, %")
    axes.set_ylabel("GAUC over ID, points")
    axes.set_title(slope["verdict"], fontsize=8, wrap=True)
    _save(figure, path)


def draw_scaling(curves: Sequence[Curve], path: Path) -> None:
    """Error over x on logarithmic axes, a panel a curve; a law that does not fit is dashed and says so."""
    figure, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 4), squeeze=False, layout="constrained")
    for axes, curve in zip(panels[0], curves, strict=True):
        x, error = (np.array([point[at] for point in curve.points]) for at in (0, 2))
        axes.plot(x, 1 - error, "o", alpha=0.6)
        if curve.law is not None:
            at = np.geomspace(x.min(), x.max(), 100)
            axes.plot(at, curve.law(at), "-" if curve.law.fits else "--", color="tab:gray")
            said = f"b {curve.law.b:.2f} ({curve.law.b_low:.2f} to {curve.law.b_high:.2f})"
            axes.set_title(
                f"{curve.axis.name}: {said if curve.law.fits else 'no power law; ' + curve.law.why}", fontsize=8, wrap=True
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(curve.axis.key)
        axes.set_ylabel(f"1 - {curve.score}", fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
