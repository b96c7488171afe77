"""Classification and attribute prediction by k-NN: the gallery is the train split, queries are of another one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from encoders.data import UNKNOWN_LABELS, DataSet, Example
from encoders.evaluation.tasks import VOTES, SameKey, Task, Truth, numbered
from encoders.item import Item
from encoders.tables import ATTRIBUTE_COLUMNS

#: An item in the form it is shown, the value to predict, and its group.
Form = tuple[Item, str, str]
_SEVERAL = re.compile(r"[|;]")


def value_tasks(data: DataSet, rows: Sequence[int]) -> list[Task]:
    """``label`` and each attribute column from the picture, and from title with description; attributes are not shown."""
    known = set(rows)
    gallery = [data.examples[row] for row in data.rows("train") if row not in known]
    queries = [data.examples[row] for row in rows]
    found = []
    for name in ("label", *ATTRIBUTE_COLUMNS):
        for form in ("image", "text"):
            asked, shown = _forms(name, form, queries), _forms(name, form, gallery)
            # A value that everything has predicts itself.
            if asked and len({value for _, value, _ in shown}) > 1:
                found.append(_task(data, f"{name}_from_{form}", asked, shown))
    return found


def _task(data: DataSet, name: str, asked: Sequence[Form], shown: Sequence[Form]) -> Task:
    values = SameKey.of([value for _, value, _ in asked], [value for _, value, _ in shown])
    truth = Truth(values, (), numbered([group for _, _, group in asked]))
    queries, gallery = tuple(item for item, _, _ in asked), tuple(item for item, _, _ in shown)
    return Task(f"{data.name}/{name}", data.folder, queries, gallery, truth, VOTES)


def _forms(name: str, form: str, examples: Sequence[Example]) -> list[Form]:
    found = []
    for example in examples:
        value, item = _value(name, example), example.item
        if value and form == "image" and example.images:
            found.append((Item(item.item_id, image=example.images[0]), value, example.group))
        if value and form == "text" and item.title:
            found.append((Item(item.item_id, title=item.title, description=item.description), value, example.group))
    return found


def _value(name: str, example: Example) -> str | None:
    """The value, the first where there are several."""
    whole = example.label if name == "label" else example.values.get(name)
    value = _SEVERAL.split(whole)[0].strip() if whole else ""
    return value if value and value not in UNKNOWN_LABELS else None
