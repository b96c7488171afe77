"""How good an encoder is on groups it never saw: the figures of a manifest, through the runtime that serves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.augment import vary_title
from encoders.data import UNKNOWN_LABELS, DataSet, Example
from encoders.item import Item
from encoders.metrics import cosines, mean_average_precision, precision_at, recall_at
from encoders.runtime import Encoder

EVALUATION_SEED = 7


@dataclass(frozen=True, slots=True)
class Query:
    """Titles to look up: query text, and the row of the gallery it belongs to."""

    text: str
    row: int


def evaluate(encoder: Encoder, data_sets: Sequence[DataSet], *, split: str = "test") -> dict[str, dict[str, float]]:
    """Measures by ``<data set>/<task>``; a data set gives those tasks that its columns allow."""
    found: dict[str, dict[str, float]] = {}
    for data in data_sets:
        rows = data.rows(split)
        examples = [data.examples[row] for row in rows]
        labelled = [e for e in examples if e.label and e.label not in UNKNOWN_LABELS and e.images]
        if len(labelled) > 1:
            found[f"{data.name}/image_to_image"] = image_by_label(encoder, data.folder, labelled)
        pictured = [e for e in examples if e.item.title and e.images]
        if len(pictured) > 1:
            found[f"{data.name}/cross_modal"] = cross_modal(encoder, data.folder, pictured)
        described = [e for e in examples if e.item.title and e.item.description]
        if len(described) > 1:
            found[f"{data.name}/description_to_title"] = description_to_title(encoder, described)
        if data.variants:
            found[f"{data.name}/title_variants"] = title_variants(encoder, data, rows)
        if not pictured and any(example.item.title for example in examples):
            found[f"{data.name}/title_damaged"] = title_damaged(encoder, data, rows)
    return found


def image_by_label(encoder: Encoder, folder: Path, examples: Sequence[Example]) -> dict[str, float]:
    """Photos of unseen senders: a hit has the query's label and comes from another sender."""
    items = [Item(str(at), image=(folder / example.images[0]).read_bytes()) for at, example in enumerate(examples)]
    vectors = encoder.encode(items)
    scores = cosines(vectors, vectors)
    labels = np.array([example.label for example in examples])
    groups = np.array([example.group for example in examples])
    scores[groups[:, None] == groups[None, :]] = -np.inf
    relevant = (labels[:, None] == labels[None, :]) & np.isfinite(scores)
    return {
        "precision_at_10": precision_at(scores, relevant, 10),
        "map": mean_average_precision(scores, relevant),
        "queries": float(len(items)),
    }


def cross_modal(encoder: Encoder, folder: Path, examples: Sequence[Example]) -> dict[str, float]:
    """Title and attributes find the item's picture among all, and the other way round."""
    texts = [replace(example.item, description=None) for example in examples]
    pictures = [Item(e.item.item_id, image=(folder / e.images[0]).read_bytes()) for e in examples]
    scores = cosines(encoder.encode(texts), encoder.encode(pictures))
    relevant = np.eye(len(examples), dtype=bool)
    return {
        "text_to_image_recall_at_10": recall_at(scores, relevant, 10),
        "image_to_text_recall_at_10": recall_at(scores.T, relevant, 10),
        "chance": min(1.0, 10 / len(examples)),
        "queries": float(len(examples)),
    }


def description_to_title(encoder: Encoder, examples: Sequence[Example]) -> dict[str, float]:
    """A description alone finds the title and attributes of its product; any colour of it counts."""
    queries = [Item(e.item.item_id, description=e.item.description) for e in examples]
    gallery = [replace(e.item, description=None) for e in examples]
    scores = cosines(encoder.encode(queries), encoder.encode(gallery))
    groups = np.array([example.group for example in examples])
    relevant = groups[:, None] == groups[None, :]
    return {
        "recall_at_1": recall_at(scores, relevant, 1),
        "recall_at_10": recall_at(scores, relevant, 10),
        "queries": float(len(queries)),
    }


def title_variants(encoder: Encoder, data: DataSet, rows: Sequence[int]) -> dict[str, float]:
    """Another title that an unseen item was sold under finds its usual one among all titles of the data set."""
    wanted = set(rows)
    queries = [Query(text, row) for row, text in data.variants if row in wanted]
    return title_recall(encoder, data, queries)


def title_damaged(encoder: Encoder, data: DataSet, rows: Sequence[int]) -> dict[str, float]:
    """A title with half of its words lost, the others partly misspelt, finds the whole one among all titles of the data set."""
    random = np.random.default_rng(EVALUATION_SEED)
    titled = [(row, data.examples[row].item.title or "") for row in rows if data.examples[row].item.title]
    queries = [Query(vary_title(title, random, drop=0.5, misspell=0.3), row) for row, title in titled]
    return title_recall(encoder, data, queries)


def title_recall(encoder: Encoder, data: DataSet, queries: Sequence[Query]) -> dict[str, float]:
    """recall@1 and recall@10; a gallery title equal to the query's own text is taken out."""
    titles = [example.item.title or example.item.item_id for example in data.examples]
    gallery = encoder.encode([Item(str(row), title=title) for row, title in enumerate(titles)])
    scores = cosines(encoder.encode([Item(str(at), title=query.text) for at, query in enumerate(queries)]), gallery)
    texts = np.array([query.text.casefold() for query in queries])
    lowered = np.array([title.casefold() for title in titles])
    scores[texts[:, None] == lowered[None, :]] = -np.inf
    relevant: NDArray[np.bool_] = lowered[None, :] == lowered[[query.row for query in queries]][:, None]
    relevant &= np.isfinite(scores)
    return {
        "recall_at_1": recall_at(scores, relevant, 1),
        "recall_at_10": recall_at(scores, relevant, 10),
        "queries": float(relevant.any(axis=1).sum()),
    }
