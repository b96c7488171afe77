"""Picture and text across: cross-modal recall, and recall by the form of query and item (MOON2.0's table).

``i`` picture, ``t`` text, ``mm`` both. Query and item never share a whole field where both have that modality:
the query has another photo, and the description (or every other word of the title) instead of the title.
"""

from __future__ import annotations

from collections.abc import Sequence

from encoders.data import DataSet, Example
from encoders.evaluation.tasks import SameKey, Task, Truth, numbered, squash, text_of
from encoders.item import Item


def mixed_tasks(data: DataSet, rows: Sequence[int]) -> list[Task]:
    """Tasks on the items of `rows` that have a title and a picture."""
    examples = [data.examples[row] for row in rows if data.examples[row].item.title and data.examples[row].images]
    photos = [_photo(example) for example in examples]
    texts = [_titled(example) for example in examples]
    both = [_both(example) for example in examples]
    others, asked = [_other_photo(example) for example in examples], [_other_text(example) for example in examples]
    mixed = [_joined(photo, text) for photo, text in zip(others, asked, strict=True)]
    described = any(example.item.description for example in examples)
    return [
        _task(data, "text_to_image", examples, texts, photos),
        _task(data, "image_to_text", examples, photos, texts),
        _task(data, "i_to_mm", examples, others, both),
        _task(data, "t_to_mm", examples, asked, both if described else [_halved(item, 1) for item in both], product=described),
        _task(data, "mm_to_mm", examples, mixed, both if described else [_halved(item, 1) for item in both]),
    ]


def _task(
    data: DataSet,
    name: str,
    examples: Sequence[Example],
    queries: Sequence[Item | None],
    gallery: Sequence[Item],
    *,
    product: bool = False,
) -> Task:
    """`queries` and `gallery` are forms of the same items; a form that is None is not asked. `product`: any colour counts."""
    rows = [row for row, query in enumerate(queries) if query is not None]
    # Two items whose title and attributes are the same words cannot be told apart by text.
    keys = [example.product if product else squash(text_of(_titled(example))) for example in examples]
    truth = Truth(SameKey.of([keys[row] for row in rows], keys), (), numbered([examples[row].group for row in rows]))
    return Task(f"{data.name}/{name}", data.folder, tuple(q for q in queries if q is not None), tuple(gallery), truth)


def _photo(example: Example) -> Item:
    return Item(example.item.item_id, image=example.images[0])


def _titled(example: Example) -> Item:
    return Item(example.item.item_id, title=example.item.title, attributes=example.item.attributes)


def _both(example: Example) -> Item:
    item = example.item
    return Item(item.item_id, title=item.title, attributes=item.attributes, image=example.images[0])


def _other_photo(example: Example) -> Item | None:
    other = next((name for name in example.images[1:] if name != example.images[0]), None)
    return None if other is None else Item(example.item.item_id, image=other)


def _other_text(example: Example) -> Item | None:
    if example.item.description:
        return Item(example.item.item_id, description=example.item.description)
    halved = _halved(Item(example.item.item_id, title=example.item.title), 0)
    return halved if halved.has_text and len((example.item.title or "").split()) > 1 else None


def _halved(item: Item, first: int) -> Item:
    """Every other word of the title."""
    words = (item.title or "").split()
    return Item(item.item_id, title=" ".join(words[first::2] or words), attributes=item.attributes, image=item.image)


def _joined(photo: Item | None, text: Item | None) -> Item | None:
    if photo is None or text is None:
        return None
    return Item(photo.item_id, title=text.title, description=text.description, image=photo.image)
