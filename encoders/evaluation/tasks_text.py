"""Text recall: a title finds the titles that mean the same, never itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from encoders.data import DataSet
from encoders.evaluation.tasks import Listed, SameKey, Task, Truth, numbered, squash
from encoders.item import Item
from encoders.wording import vary_title

DAMAGE_SEED: Final = 7


def text_tasks(data: DataSet, rows: Sequence[int]) -> list[Task]:
    """Tasks on titles and descriptions of a data set; queries come from `rows`, titles to find from every row."""
    titled = [row for row in rows if data.examples[row].item.title]
    pictured = any(data.examples[row].images for row in titled)
    found = [_described(data, rows), _titles_of_a_product(data, rows)]
    if data.variants:
        wanted = set(rows)
        found.append(_titles(data, "title_variants", [(row, text) for row, text in data.variants if row in wanted]))
    if titled and not pictured:
        random = np.random.default_rng(DAMAGE_SEED)
        damaged = [(row, vary_title(data.examples[row].item.title or "", random, drop=0.5, misspell=0.3)) for row in titled]
        found.append(_titles(data, "title_damaged", damaged))
    return [task for task in found if task.queries and task.gallery]


def matching_titles(name: str, folder: Path, matches: dict[str, set[str]], groups: dict[str, str]) -> Task:
    """Each title that has matches finds them among all titles.

    Args:
        name: of the task.
        folder: of the data.
        matches: matching titles by title; both ways; every title of the corpus is a key.
        groups: by title, what is drawn together in the bootstrap.
    """
    corpus = list(matches)
    place = {title: at for at, title in enumerate(corpus)}
    asked = [title for title in corpus if matches[title]]
    columns = tuple(np.array(sorted(place[other] for other in matches[title]), np.int64) for title in asked)
    own = SameKey.of([squash(title) for title in asked], [squash(title) for title in corpus])
    truth = Truth(Listed(columns, len(corpus)), (own,), numbered([groups[title] for title in asked]))
    return Task(name, folder, _as_titles(asked), _as_titles(corpus), truth)


def distinct(titles: Iterable[str]) -> dict[str, str]:
    """The first spelling of each title string, by `squash`."""
    found: dict[str, str] = {}
    for title in titles:
        found.setdefault(squash(title), title)
    return found


def _titles(data: DataSet, task: str, queries: Sequence[tuple[int, str]]) -> Task:
    """`queries` are (row, text): the text finds the row's title; a title equal to the text is taken out."""
    corpus = distinct(example.item.title for example in data.examples if example.item.title)
    asked = [(row, text) for row, text in queries if data.examples[row].item.title]
    own = SameKey.of([squash(text) for _, text in asked], list(corpus))
    right = SameKey.of([squash(data.examples[row].item.title or "") for row, _ in asked], list(corpus))
    truth = Truth(right, (own,), numbered([data.examples[row].group for row, _ in asked]))
    queries_ = _as_titles([text for _, text in asked])
    return Task(f"{data.name}/{task}", data.folder, queries_, _as_titles(list(corpus.values())), truth)


def _titles_of_a_product(data: DataSet, rows: Sequence[int]) -> Task:
    """Where one product has titles that differ, each finds the others."""
    corpus = distinct(example.item.title for example in data.examples if example.item.title)
    products: dict[str, set[str]] = defaultdict(set)
    matches: dict[str, set[str]] = {title: set() for title in corpus.values()}
    groups = dict.fromkeys(corpus.values(), "")
    for example in data.examples:
        if example.item.title:
            products[example.product].add(corpus[squash(example.item.title)])
    for row in rows:
        example = data.examples[row]
        if example.item.title:
            title = corpus[squash(example.item.title)]
            matches[title] |= products[example.product] - {title}
            groups[title] = groups[title] or example.group
    return matching_titles(f"{data.name}/title_to_title", data.folder, matches, groups)


def _described(data: DataSet, rows: Sequence[int]) -> Task:
    """A description alone finds the title and attributes of its product; any colour of it counts."""
    examples = [data.examples[row] for row in rows]
    examples = [example for example in examples if example.item.title and example.item.description]
    queries = tuple(Item(e.item.item_id, description=e.item.description) for e in examples)
    gallery = tuple(Item(e.item.item_id, title=e.item.title, attributes=e.item.attributes) for e in examples)
    products = [example.product for example in examples]
    truth = Truth(SameKey.of(products, products), (), numbered([example.group for example in examples]))
    return Task(f"{data.name}/description_to_title", data.folder, queries, gallery, truth)


def _as_titles(titles: Sequence[str]) -> tuple[Item, ...]:
    return tuple(Item(str(at), title=title) for at, title in enumerate(titles))
