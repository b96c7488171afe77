"""What a measurement found, and how it is made from tasks and methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from encoders.data import Example
from encoders.evaluation.health import health
from encoders.evaluation.measures import Figure, figure, run, run_with_intervals
from encoders.evaluation.probe import rightly_common
from encoders.evaluation.tasks import Method, SameKey, Task
from encoders.evaluation.tasks_build import Built
from encoders.evaluation.vectors import ByFloats, Vectors
from encoders.item import Item

MAJORITY: Final = "majority"
FORMS: Final = ("image", "text", "both")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """Figures of one task. `figures` by measure, then by method. `loss_by_int8` in points (hundredths), by measure."""

    name: str
    queries: int
    gallery: int
    figures: Mapping[str, Mapping[str, Figure]]
    loss_by_int8: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeasuredData:
    """Figures of one data set. `health` by the form of the item; `rejected` counts what the encoder turned away."""

    built: Built
    tasks: tuple[MeasuredTask, ...]
    health: Mapping[str, Mapping[str, float]]
    rejected: Mapping[str, int]


def measure(built: Built, vectors: Vectors, methods: Sequence[Method], *, say: Say) -> MeasuredData:
    """Every method on every task that it can read; the encoder's own is named by its space."""
    before = vectors.rejects.copy()
    tasks = []
    for at, task in enumerate(built.tasks):
        say(f"{task.name} ({at + 1}/{len(built.tasks)}): {len(task.queries)} queries, {len(task.gallery)} in the gallery")
        tasks.append(measure_task(task, vectors, methods))
    found = {form: health(vectors.codes(items, built.folder)) for form, items in forms_of(built.examples).items() if items}
    return MeasuredData(built, tuple(tasks), found, dict(vectors.rejects - before))


def measure_task(task: Task, vectors: Vectors, methods: Sequence[Method]) -> MeasuredTask:
    """Figures of one task by every method that reads what the task needs."""
    figures: dict[str, dict[str, Figure]] = {name: {} for name in task.measures}
    for method in methods:
        if task.reads <= method.reads:
            for name, value in run_with_intervals(task, method).items():
                figures[name][method.name] = value
    values = task.truth.relevant
    if "accuracy" in task.measures and isinstance(values, SameKey):
        figures["accuracy"][MAJORITY] = figure(rightly_common(values), task.truth.groups)
    exact, served = run(task, ByFloats("floats", vectors)), vectors.encoder.space.id
    loss = {name: 100.0 * (value - figures[name][served].value) for name, value in exact.items() if served in figures[name]}
    return MeasuredTask(task.name, len(task.queries), len(task.gallery), figures, loss)


def forms_of(examples: Sequence[Example]) -> dict[str, list[Item]]:
    """Distinct contents by form; an item that lacks a form is not counted in it."""
    found: dict[str, list[Item]] = {form: [] for form in FORMS}
    for example in examples:
        item, image = example.item, example.images[0] if example.images else None
        if image:
            found["image"].append(Item("", image=image))
        if item.has_text:
            found["text"].append(Item("", item.title, item.description, item.attributes))
        if image and item.has_text:
            found["both"].append(Item("", item.title, item.description, item.attributes, image))
    return {form: list(dict.fromkeys(items)) for form, items in found.items()}
