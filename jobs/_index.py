"""From the online store into the index, with progress. One process does it: the indexer is the collection's only writer."""

from __future__ import annotations

from jobs._progress import Progress
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.indexer import IndexCounts, Indexer
from moontide.views import embedding_view

_LIMIT = 5_000


def update_index(store: OnlineStore, index: VectorIndex, space: EmbeddingSpace) -> IndexCounts:
    """Index what is marked, compare both stores whole, and index what that found.

    Raises:
        Transient: a store failed; run again.
    """
    indexer = Indexer(store, index, space)
    total = _drain(indexer, "index", store.count(embedding_view(space)))
    found = indexer.repair()
    if found.marked:
        total += _drain(indexer, "index repair", found.marked)
    return total


def _drain(indexer: Indexer, phase: str, most: int) -> IndexCounts:
    total = IndexCounts()
    with Progress(phase, most, lambda: total.upserted + total.deleted):
        while True:
            counts = indexer.run_once(limit=_LIMIT)
            if not (counts.upserted or counts.deleted):
                return total
            total += counts
