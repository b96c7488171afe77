"""A catalog's vectors for the ranking trainer: ``python -m encoders.study encode ARTIFACT --data DIR --out FILE.npz``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from encoders.data import read_data_set
from encoders.images import ImageLoader
from encoders.item import Item
from encoders.runtime import Encoder
from encoders.study.runs import Say
from encoders.study.vector_file import write_vectors


def encode_catalog(artifact: Path, data: Path, out: Path, *, dim: int | None, say: Say) -> None:
    """Encode the text and first picture of every item; what cannot be encoded is left out and counted.

    Raises:
        Misconfigured: the artifact or the data cannot be read, or `dim` is no prefix.
    """
    folder = read_data_set(data, cutoff=None, licensed=False)
    encoder = Encoder.load(artifact, threads=1, images=ImageLoader(root=data))
    items = [
        Item(item.item_id, item.title, item.description, item.attributes, example.images[0] if example.images else None)
        for example in folder.examples
        for item in (example.item,)
    ]
    vectors, rejects = encoder.encode_or_reject(items)
    if dim is not None:
        vectors = vectors.prefix(dim)
    write_vectors(out, vectors)
    reasons = Counter(str(reject.reason) for reject in rejects)
    say(f"{len(vectors)} of {len(items)} items encoded in {vectors.space.id}; left out: {dict(reasons)}")
