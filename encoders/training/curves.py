"""Loss and recall curves of a run as one picture: ``python -m encoders.training.curves HISTORY --out FILE``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from encoders.training.history import Record, read_history
from moontide.errors import Misconfigured, MoontideError

COLUMNS: Final = 3
SMOOTHED_OVER: Final = 0.02
SUFFIXES: Final = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of one name over the steps of the whole run, stages one after another."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def curves_of(records: Sequence[Record], kind: str) -> dict[str, Curve]:
    """Curves of the losses (`kind` ``loss``) or recalls (``recall``) by name, in the order they first appear."""
    starts = stage_starts(records)
    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record["kind"] == kind:
            values: Mapping[str, float] = record["losses" if kind == "loss" else "recall"]
            for name, value in values.items():
                points.setdefault(name, []).append((starts[record["stage"]] + record["step"], value))
    return {name: Curve(*np.array(found, dtype=np.float64).T) for name, found in points.items()}


def stage_starts(records: Sequence[Record]) -> dict[str, int]:
    """Step of the whole run at which each stage begins."""
    starts: dict[str, int] = {}
    end = 0
    for record in records:
        if record["stage"] not in starts:
            starts[record["stage"]] = end
        end = max(end, starts[record["stage"]] + record["step"])
    return starts


def smoothed(values: NDArray[np.float64], *, span: float) -> NDArray[np.float64]:
    """Exponential mean whose weights fall by e over `span` points; unbiased at its beginning. Shape kept."""
    keep = math.exp(-1.0 / max(span, 1e-9))
    total = weight = 0.0
    means = np.empty_like(values)
    for at, value in enumerate(values):
        total, weight = keep * total + (1.0 - keep) * value, keep * weight + (1.0 - keep)
        means[at] = total / weight
    return means


def draw(records: Sequence[Record], out: Path) -> None:
    """Write the picture: a panel a loss (raw and smoothed), one for all recalls; dashed lines where a stage begins.

    Raises:
        Misconfigured: `out` is no .png, .svg or .pdf, or cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise Misconfigured(f"{out}: expected a name that ends in {', '.join(SUFFIXES)}")
    losses, recalls, starts = curves_of(records, "loss"), curves_of(records, "recall"), stage_starts(records)
    panels = len(losses) + bool(recalls)
    rows = max(1, -(-panels // COLUMNS))
    figure = Figure(figsize=(4.2 * COLUMNS, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    if recalls:
        _recall_panel(axes[0], recalls)
    for axis, (name, curve) in zip(axes[bool(recalls) :], losses.items(), strict=False):
        axis.plot(curve.steps, curve.values, color="tab:blue", alpha=0.25, linewidth=0.8)
        axis.plot(curve.steps, smoothed(curve.values, span=max(1.0, SMOOTHED_OVER * len(curve.values))), color="tab:blue")
        axis.set_title(f"loss: {name}", fontsize=10)
    for axis in axes[:panels]:
        _mark(axis, starts)
    for axis in axes[panels:]:
        axis.set_axis_off()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # No time of writing inside: the same history gives the same bytes.
        figure.savefig(out, dpi=110, metadata={"Software": None} if out.suffix == ".png" else None)
    except OSError as error:
        raise Misconfigured(f"{out}: expected a place to write a picture, got {error}") from error


def _recall_panel(axis: Axes, recalls: Mapping[str, Curve]) -> None:
    for name, curve in recalls.items():
        axis.plot(curve.steps, curve.values, marker=".", label=name)
    axis.set_title("on the validation split", fontsize=10)
    axis.set_ylim(0.0, max(1.0, *(float(curve.values.max()) for curve in recalls.values())))
    axis.legend(fontsize=7)


def _mark(axis: Axes, starts: Mapping[str, int]) -> None:
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    for stage, step in starts.items():
        axis.axvline(step, color="grey", linestyle="--", linewidth=0.8)
        axis.text(step, 1.0, f" {stage}", transform=axis.get_xaxis_transform(), fontsize=7, va="top", color="grey")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m encoders.training.curves", description=__doc__)
    parser.add_argument("history", type=Path, help="history.jsonl of a run")
    parser.add_argument("--out", type=Path, required=True, help="a .png, .svg or .pdf")
    arguments: Any = parser.parse_args(argv)
    try:
        draw(read_history(arguments.history), arguments.out)
    except MoontideError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
