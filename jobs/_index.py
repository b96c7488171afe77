"""From the online store into the index, with progress. One process does it: the indexer is the collection's only writer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from jobs._cli import complain
from jobs._progress import Progress
from moontide.errors import Transient
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores import online_store, vector_index
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.indexer import IndexCounts, Indexer
from moontide.views import embedding_view

_LIMIT = 5_000
_PAUSES = (1.0, 5.0, 20.0)


def index_space(settings: Settings, space: EmbeddingSpace, *, sleep: Callable[[float], None] = time.sleep) -> IndexCounts:
    """`update_index` with the site's stores, tried again a few times: a connection that was idle while executors encoded
    may be found dead on its first use.

    Raises:
        Transient: it failed every time; run again.
    """
    for pause in _PAUSES:
        try:
            return _once(settings, space)
        except Transient as error:
            complain(f"index: {error}; again in {pause:.0f} s")
            sleep(pause)
    return _once(settings, space)


def _once(settings: Settings, space: EmbeddingSpace) -> IndexCounts:
    with closing(online_store(settings)) as store, closing(vector_index(settings)) as index:
        return update_index(store, index, space)


def update_index(store: OnlineStore, index: VectorIndex, space: EmbeddingSpace) -> IndexCounts:
    """Index what is marked, compare both stores whole, and index what that found.

    The first space of a family becomes the one its alias names; after that only a space switch moves the alias.

    Raises:
        Transient: a store failed; run again.
    """
    indexer = Indexer(store, index, space)
    total = _drain(indexer, "index", store.count(embedding_view(space)))
    found = indexer.repair()
    if found.marked:
        total += _drain(indexer, "index repair", found.marked)
    if index.resolve_alias(space.name) is None:
        index.point_alias(space)
    return total


def _drain(indexer: Indexer, phase: str, most: int) -> IndexCounts:
    total = IndexCounts()
    with Progress(phase, most, lambda: total.upserted + total.deleted):
        # Bounded, because live writers may mark as fast as this clears.
        for _ in range(2 + 2 * most // _LIMIT):
            counts = indexer.run_once(limit=_LIMIT)
            if not (counts.upserted or counts.deleted):
                break
            total += counts
    return total
