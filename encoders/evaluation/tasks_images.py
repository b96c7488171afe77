"""Image-based search: a photo finds photos of its kind, and of its product."""

from __future__ import annotations

from collections.abc import Sequence

from encoders.data import UNKNOWN_LABELS, DataSet, Example
from encoders.evaluation.tasks import RANKINGS, SameKey, Task, Truth, numbered
from encoders.item import Item


def image_tasks(data: DataSet, rows: Sequence[int]) -> list[Task]:
    """Tasks on the pictures of `rows`."""
    examples = [data.examples[row] for row in rows if data.examples[row].images]
    found = [_same_kind(data, examples), _same_product(data, examples)]
    return [task for task in found if task.queries]


def kind_of_goods(example: Example) -> str | None:
    """The label, or the category where there is none; None where it says nothing."""
    kind = example.label or example.values.get("main_category")
    return None if kind in UNKNOWN_LABELS else kind


def _same_kind(data: DataSet, examples: Sequence[Example]) -> Task:
    """The main photo of an item finds those of its label from other groups: own sender, own product do not count."""
    known = [example for example in examples if kind_of_goods(example)]
    photos = tuple(Item(example.item.item_id, image=example.images[0]) for example in known)
    kinds, groups = [kind_of_goods(example) for example in known], [example.group for example in known]
    truth = Truth(SameKey.of(kinds, kinds), (SameKey.of(groups, groups),), numbered(groups))
    return Task(f"{data.name}/image_to_image", data.folder, photos, photos, truth, RANKINGS)


def _same_product(data: DataSet, examples: Sequence[Example]) -> Task:
    """Any photo finds the other photos of its product among all photos; a picture never finds itself."""
    shots = list({(example.product, name): (example, name) for example in examples for name in example.images}.values())
    photos = tuple(Item(f"{example.item.item_id}:{at}", image=name) for at, (example, name) in enumerate(shots))
    products, names = [example.product for example, _ in shots], [name for _, name in shots]
    truth = Truth(SameKey.of(products, products), (SameKey.of(names, names),), numbered([e.group for e, _ in shots]))
    return Task(f"{data.name}/image_to_product", data.folder, photos, photos, truth, RANKINGS)
