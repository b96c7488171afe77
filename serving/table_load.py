"""Vector tables are loaded from the online store, which arbitrates: what it holds, and what it holds no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from moontide.stores.base import OnlineStore, Status
from moontide.stores.indexer import head_tokens
from moontide.views import embedding_view
from serving.table_writer import TableWriter

_BATCH: int = 2_048


def load(store: OnlineStore, table: TableWriter, stop: threading.Event, between: Callable[[], None] = lambda: None) -> bool:
    """Bring every record of the store into the table, and out of it what the store does not know any more.

    Half-written rows come first. A record of the store replaces any other, of a higher order too, but for one that `between`
    wrote: what was removed may have been written anew, or the store brought back from a copy.

    Args:
        store: read in batches.
        table: written.
        stop: ends it early.
        between: called between two batches; it may write to the table.

    Returns:
        False where `stop` was set meanwhile.

    Raises:
        SpaceMismatch: the store holds vectors of another encoder under this space's name.
        Transient: the store did not answer; load again.
    """
    since = table.sequences()
    _refresh(store, table, table.damaged, since)
    seen = np.zeros(table.rows, np.bool_)
    for chunk in store.scan(embedding_view(table.space)):
        ids = [str(entity) for entity in chunk]
        places = [place for item in ids if (place := table.place(item)) is not None and place < len(seen)]
        seen[places] = True
        for start in range(0, len(ids), _BATCH):
            if stop.is_set():
                return False
            _refresh(store, table, ids[start : start + _BATCH], since)
            between()
    known = table.ids()
    gone = [known[row] for row in np.flatnonzero(~seen).tolist()]
    for start in range(0, len(gone), _BATCH):
        _refresh(store, table, gone[start : start + _BATCH], since)
        between()
    return True


def _refresh(store: OnlineStore, table: TableWriter, ids: Sequence[str], since: NDArray[np.uint64]) -> None:
    if not ids:
        return
    vectors, heads = store.read_current(table.space, ids)
    there = heads.status != Status.ABSENT
    orders = head_tokens(heads)
    table.upsert(vectors.take(there), [orders[row] for row in np.flatnonzero(there).tolist()], since)
    table.forget([ids[row] for row in np.flatnonzero(~there).tolist()])
