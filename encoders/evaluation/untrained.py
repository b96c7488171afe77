"""The untrained copy of an encoder, as the training program measured it by these same tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from encoders.evaluation.measured import MeasuredData, MeasuredTask
from encoders.evaluation.measures import Figure

UNTRAINED: Final = "untrained"


def with_untrained(found: MeasuredData, metrics: Mapping[str, Any]) -> MeasuredData:
    """`found` with a column `UNTRAINED` where a manifest's `metrics` have the same task on the same split and queries.

    The manifest holds means alone, so the interval is not known. Other artifacts, the untrained copy among them, can be measured
    in full as ``--baselines untrained=DIR``; such a column stays.
    """
    tasks = _inside(_inside(metrics, found.built.split), UNTRAINED)
    return replace(found, tasks=tuple(_joined(task, _inside(tasks, task.name)) for task in found.tasks))


def _joined(task: MeasuredTask, known: Mapping[str, Any]) -> MeasuredTask:
    if known.get("queries") != task.queries:
        return task
    figures = {}
    for measure, by in task.figures.items():
        value = known.get(measure)
        figures[measure] = {UNTRAINED: Figure(float(value), math.nan, math.nan), **by} if isinstance(value, float) else by
    return replace(task, figures=figures)


def _inside(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    return value if isinstance(value, Mapping) else {}
