"""Vectors together with the very records they come from: one read, so that nothing can change between value and version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.records import embeddings_of
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore
from moontide.views import ViewSpec, embedding_view


@dataclass(frozen=True, slots=True, eq=False)
class Versioned:
    """Records of B ids, as one read found them.

    Attributes:
        records: rows of the view's table, each once, tombstones included.
        at: (B,) int64 row in `records` of each id; -1: no record.
    """

    records: pa.Table
    at: NDArray[np.int64]


def read_versioned(store: OnlineStore, view: ViewSpec, ids: Sequence[str]) -> Versioned:
    """The current records of B ids, repeats allowed."""
    records = store.read_records(view, list(dict.fromkeys(ids)))
    found = {item: n for n, item in enumerate(records.column(view.entities[0]).to_pylist())}
    return Versioned(records, np.array([found.get(i, -1) for i in ids], np.int64))


def read_vectors(store: OnlineStore, space: EmbeddingSpace, ids: Sequence[str]) -> tuple[Embeddings, Versioned]:
    """(B, D) vectors as `OnlineStore.read_embeddings`, with their records, from one read. A prefix is cut from its parent's.

    Raises:
        SpaceMismatch: the store's records of this space were made by another encoder or dim.
    """
    view = embedding_view(space)
    read = read_versioned(store, view, ids)
    whole = view.space or space
    there = read.at >= 0
    if read.records.num_rows:
        taken = embeddings_of(whole, read.records).take(np.where(there, read.at, 0))
        found = Embeddings.from_codes(whole, taken.codes * there[:, None], taken.scale * there, ids=ids)
    else:
        found = Embeddings.absent(whole, len(ids), ids=ids)
    return (found.prefix(space.dim) if space.prefix_of else found), read
