"""A measurement as a table for people and as JSON for programs: `docs/reference/evaluation.md` has the schema."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from encoders.evaluation.measured import MAJORITY, MeasuredData, MeasuredTask
from encoders.evaluation.measures import Figure
from encoders.evaluation.untrained import UNTRAINED
from encoders.runtime import Encoder

FORMAT_VERSION: Final = 1


def as_json(encoder: Encoder, found: Sequence[MeasuredData], settings: dict[str, Any]) -> dict[str, Any]:
    """The whole measurement; shares in 0..1, `loss_by_int8` in points; an interval that is not known is null."""
    manifest = encoder.artifact.manifest
    artifact = {"space": encoder.space.id, "dim": encoder.space.dim, "digest": encoder.space.encoder_digest,
                "training_cutoff": manifest.training_cutoff}  # fmt: skip
    return {
        "format_version": FORMAT_VERSION,
        "artifact": artifact,
        "settings": settings,
        "data": [_data(part) for part in found],
    }


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Strict JSON (no NaN), UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def as_table(found: Sequence[MeasuredData], methods: Sequence[str]) -> str:
    """One line per task and measure, one column per method, in per cent; the first method has its interval."""
    lines = [_line(task, measure, methods) for part in found for task in part.tasks for measure in task.figures]
    header = ["task", "measure", "queries", *(methods[:1]), "95 %", *methods[1:], MAJORITY, "int8 loss"]
    rows = [header, *lines]
    # A method that can answer nothing has its dashes; that training measured nothing of this kind is no news.
    empty = {"", "-"}
    used = [
        at for at, name in enumerate(header) if at < 5 or {line[at] for line in lines} - (empty if name == UNTRAINED else {""})
    ]
    widths = {at: max(len(row[at]) for row in rows) for at in used}
    text = [_padded(row, used, widths) for row in rows]
    text.insert(1, "-" * len(text[0]))
    return "\n".join([*text, "", *(note for part in found for note in notes(part))])


def notes(part: MeasuredData) -> list[str]:
    """What was left out, and how the vectors are."""
    counted = {"left out": part.built.skipped, "turned away by the encoder": part.rejected,
               "queries without a right answer": part.built.unasked}  # fmt: skip
    reason = f" ({part.built.reason})" if part.built.reason else ""
    lines = [f"{part.built.name} [{part.built.split}]{reason}: {len(part.tasks)} tasks"]
    lines += [f"  {name}: {_counts(counts)}" for name, counts in counted.items() if counts]
    for form, figures in part.health.items():
        lines.append(f"  vectors ({form}): " + ", ".join(f"{name} {_short(value)}" for name, value in figures.items()))
    return lines


def _data(part: MeasuredData) -> dict[str, Any]:
    built = part.built
    return {
        "name": built.name,
        "split": built.split,
        "split_reason": built.reason,
        "skipped": dict(built.skipped),
        "rejected": dict(part.rejected),
        "without_answer": dict(built.unasked),
        "health": {form: dict(figures) for form, figures in part.health.items()},
        "tasks": [_task(task) for task in part.tasks],
    }


def _task(task: MeasuredTask) -> dict[str, Any]:
    measures = {
        name: {method: {key: _finite(value) for key, value in asdict(figure).items()} for method, figure in by.items()}
        for name, by in task.figures.items()
    }
    return {"name": task.name, "queries": task.queries, "gallery": task.gallery, "measures": measures,
            "loss_by_int8": dict(task.loss_by_int8)}  # fmt: skip


def _line(task: MeasuredTask, measure: str, methods: Sequence[str]) -> list[str]:
    by = task.figures[measure]
    values = [_percent(by.get(method)) for method in methods]
    own = by.get(methods[0]) if methods else None
    interval = f"{100 * own.low:.1f}..{100 * own.high:.1f}" if own and math.isfinite(own.low) else ""
    common = "" if MAJORITY not in by else _percent(by[MAJORITY])
    loss = f"{task.loss_by_int8[measure]:+.2f}" if measure in task.loss_by_int8 else ""
    return [task.name, measure, str(task.queries), *values[:1], interval, *values[1:], common, loss]


def _padded(row: Sequence[str], used: Sequence[int], widths: dict[int, int]) -> str:
    return "  ".join(row[at].ljust(widths[at]) if at < 2 else row[at].rjust(widths[at]) for at in used).rstrip()


def _percent(figure: Figure | None) -> str:
    return "-" if figure is None else f"{100 * figure.value:.1f}"


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _short(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.3f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
