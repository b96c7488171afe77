"""What a run is given: data sets and settings under digests, and what is unusual about the data, said aloud."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from encoders.data import UNKNOWN_LABELS, DataSet, Example

TEXT_FILES: Final = (".csv", ".json", ".parquet", ".jsonl", ".toml")


def data_digest(folders: Sequence[Path], *settings: object) -> str:
    """16 hex digits over folders of data, in their order, and whatever else decides what is read from them.

    Tables count by their bytes, other files (pictures) by name and size: reading a million pictures would take minutes.
    """
    total = hashlib.blake2b(repr(settings).encode(), digest_size=8)
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = path.read_bytes() if path.suffix in TEXT_FILES else b""
            total.update(f"{folder.name}/{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            total.update(data)
    return total.hexdigest()


def notes_on(data_sets: Sequence[DataSet], *, batch: int) -> Iterator[str]:
    """Sentences about data that train, but not as one might think.

    Args:
        data_sets: as they were read.
        batch: items in a step of the largest kind.
    """
    examples = [data.examples[row] for data in data_sets for row in data.rows("train")]
    for data in data_sets:
        for reason, count in data.skipped.items():
            yield f"{data.name}: {count} rows left out, {reason.replace('_', ' ')}"
    if not any(example.images for example in examples):
        yield "no pictures in any data set: the image tower stays as it began, only texts are trained"
    if not any(example.item.title or example.item.description for example in examples):
        yield "no texts in any data set: the text tower stays as it began, only pictures are trained"
    if examples and len(examples) < batch:
        yield f"{len(examples)} items to train on, fewer than the {batch} of one step: every step sees all of them"
    lonely = sum(count == 1 for count in _labels(examples).values())
    if lonely:
        yield f"{lonely} classes with one member: it has no other to be like, and is a negative only"


def _labels(examples: Iterable[Example]) -> Counter[str]:
    return Counter(e.label for e in examples if e.label and e.label not in UNKNOWN_LABELS)
