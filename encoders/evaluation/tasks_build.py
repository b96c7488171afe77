"""From a folder to the tasks that its columns allow, with counts of what had to be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from encoders.data import DataSet, Example, read_data_set
from encoders.evaluation.tasks import Task
from encoders.evaluation.tasks_images import image_tasks
from encoders.evaluation.tasks_mixed import mixed_tasks
from encoders.evaluation.tasks_pairs import FILES, TitlePairs, pair_tasks, pairs_file, read_pairs
from encoders.evaluation.tasks_text import text_tasks
from encoders.evaluation.tasks_values import value_tasks
from encoders.images import ImageLoader, decode
from encoders.item import TITLE_MAX_CHARS, Unencodable
from moontide.errors import Misconfigured

SPLITS: Final = ("auto", "all", "train", "val", "test")
CAP_SEED: Final = 11
_PROBE_SIDE: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """Tasks of one data set.

    `examples` are its items in the split, for vector health; `skipped` counts what was left out, by reason;
    `unasked` the queries of each task that have no right answer, among them every task that has no query left; `reason` says
    why this split.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    folder: Path
    examples: tuple[Example, ...]
    skipped: Mapping[str, int]
    unasked: Mapping[str, int]
    reason: str = ""


def build_folder(path: Path, *, split: str, queries: int | None = None) -> Built:
    """Tasks of a data folder, or of a pairs file or the folder that holds one.

    Raises:
        Misconfigured: neither, or a file that cannot be read.
    """
    return build_opened(open_data(path), split=split, queries=queries)


def open_data(path: Path) -> DataSet | TitlePairs:
    """What `build_folder` reads. A pairs file beside an items.csv is left out, and counted.

    Raises:
        Misconfigured: as `build_folder`.
    """
    found = pairs_file(path)
    if (path / "items.csv").is_file():
        data = read_data_set(path, cutoff=None, licensed=False)
        return data if found is None else replace(data, skipped={**data.skipped, f"{found.name} (measure it by its own path)": 1})
    if found is None:
        raise Misconfigured(f"{path}: expected items.csv, {' or '.join(FILES)}; see docs/reference/evaluation.md")
    return read_pairs(found)


def build_opened(data: DataSet | TitlePairs, *, split: str, queries: int | None = None) -> Built:
    """Tasks of what `open_data` read."""
    if isinstance(data, DataSet):
        return build(data, split=split, queries=queries)
    tasks, skipped = pair_tasks(data, split)
    unique = {item.title: Example(item, "", None, ()) for task in tasks for item in task.gallery}
    return _built(data.name, split, tasks, data.folder, list(unique.values()), skipped, queries)


def build(data: DataSet, *, split: str, queries: int | None = None, values: bool = True) -> Built:
    """Tasks of a data set on the rows of `split`; `queries` caps each task, drawn under a fixed seed.

    `values`: with classification and attribute prediction, whose gallery is the train split.
    """
    rows = data.rows(split)
    # Values are predicted from train rows to rows of another split, whatever else is measured.
    asked = data.rows("test") if split == "all" else rows
    sound, skipped = sound_examples(data, {*rows, *asked, *data.rows("train")} if values else {*rows})
    tasks = [*image_tasks(sound, rows), *mixed_tasks(sound, rows), *text_tasks(sound, rows)]
    if values:
        tasks += value_tasks(sound, asked)
    return _built(data.name, split, tasks, data.folder, [sound.examples[row] for row in rows], skipped, queries)


def build_tasks(data: DataSet, split: str) -> list[Task]:
    """The tasks alone."""
    return list(build(data, split=split).tasks)


def sound_examples(data: DataSet, rows: set[int]) -> tuple[DataSet, Counter[str]]:
    """The data set without pictures that cannot be read or that show one colour only, and without endless titles.

    A row keeps its place; one that had neither picture nor text from the start is counted as ``no_content``.
    """
    skipped: Counter[str] = Counter(data.skipped)
    loader = ImageLoader(root=data.folder)
    examples = list(data.examples)
    for row in rows:
        example = examples[row]
        faults = {name: _fault(loader, name) for name in example.images}
        skipped.update(fault for fault in faults.values() if fault)
        item = example.item
        skipped["no_content"] += not example.images and not item.has_text
        if item.title and len(item.title) > TITLE_MAX_CHARS:
            skipped["title_too_long"] += 1
            item = replace(item, title=None)
        examples[row] = replace(example, item=item, images=tuple(name for name, fault in faults.items() if not fault))
    return replace(data, examples=tuple(examples)), +skipped


def _fault(loader: ImageLoader, name: str) -> str | None:
    try:
        pixels = decode(loader.read(name), (_PROBE_SIDE, _PROBE_SIDE))
    except Unencodable as error:
        return error.reason.value
    return "image_constant" if (pixels == pixels[0, 0]).all() else None


def _built(
    name: str,
    split: str,
    tasks: Sequence[Task],
    folder: Path,
    examples: Sequence[Example],
    skipped: Counter[str],
    queries: int | None,
) -> Built:
    kept, unasked = [], {}
    for task in tasks:
        rows = np.flatnonzero(task.answerable())
        if len(rows) < len(task.queries):
            unasked[task.name] = len(task.queries) - len(rows)
        if queries is not None and len(rows) > queries:
            rows = np.sort(np.random.default_rng(CAP_SEED).choice(rows, queries, replace=False))
        # A gallery of one row is found by anything.
        if len(rows) and len(task.gallery) > 1:
            kept.append(task.take(rows))
    return Built(name, split, tuple(kept), folder, tuple(examples), dict(skipped), unasked)
