"""The items nearest to an item, from whatever holds the vectors; cosines are those of `moontide.simtier` everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, Poison
from moontide.live import LiveSpaces
from moontide.spaces import EmbeddingSpace, require_same_space
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.index_rules import cosines, ranked
from moontide.views import embedding_view

#: Part of a space: ids, and their vectors in the same order.
Block = tuple[Sequence[str], Embeddings]
#: (item id, cosine) in falling order of cosine, equal ones by rising id.
Hits = list[tuple[str, float]]

_BLOCK_ROWS: Final = 4_096


def served_space(live: LiveSpaces, index: VectorIndex, space_id: str | None) -> EmbeddingSpace:
    """The named space, else the one the alias of the first live space's family points at, else that first one."""
    if space_id is not None:
        return live.space(space_id)
    if not live.spaces:
        raise Misconfigured(f"{live.path}: expected a [[space]], got none; see docs/reference/spaces-toml.md")
    first = live.spaces[0].space
    served = index.resolve_alias(first.name)
    return live.space(served) if served else first


def query_of(store: OnlineStore, space: EmbeddingSpace, item_id: str) -> Embeddings:
    """The item's current vector, one row.

    Raises:
        Poison: the item has no vector in this space.
        SpaceMismatch: the store holds vectors of another encoder under this space's name.
    """
    query = store.read_embeddings(space, [item_id])
    if not query.present[0]:
        raise Poison(
            f"item {item_id}: expected a vector in {space.id}, got none; is it in the catalog, and was the backfill run?"
        )
    return query


def neighbours(store: OnlineStore, index: VectorIndex, space: EmbeddingSpace, item_id: str, k: int) -> Hits:
    """The k nearest other items of an item, by the index.

    Raises:
        Poison: the item has no vector in this space.
    """
    return in_index(index, query_of(store, space, item_id), item_id, k)


def in_index(index: VectorIndex, query: Embeddings, item_id: str, k: int) -> Hits:
    """The k nearest items of `query` (one row) but `item_id`, by the index of its space."""
    found = index.search(query.space, query, k + 1)
    pairs = zip(found.ids[0], found.scores[0].tolist(), strict=False)
    return [(other, score) for other, score in pairs if other != item_id][:k]


def in_blocks(blocks: Iterable[Block], query: Embeddings, item_id: str, k: int) -> Hits:
    """The k nearest items of `query` but `item_id`, exactly, with memory for one block and k hits.

    Args:
        blocks: all of the space; rows that are not present are no hits. Of an id that comes twice one version counts.
        query: one present row.
        item_id: left out.
        k: 1 or more.

    Raises:
        SpaceMismatch: a block of another space.
    """
    best: dict[str, np.float32] = {}
    floor = np.float32(-np.inf)
    for ids, vectors in blocks:
        require_same_space(query.space, vectors.space, where="neighbours")
        scores = cosines(query.codes, query.inv_norm, vectors.codes, vectors.inv_norm)[0]
        for n in _at_least(scores, vectors.present, floor, k + 1):
            best[ids[n]] = scores[n]
        best.pop(item_id, None)
        found, kept = ranked(list(best), np.array(list(best.values()), np.float32), k)
        best = dict(zip(found, kept, strict=True))
        floor = kept[-1] if len(kept) == k else floor
    return [(item, float(score)) for item, score in best.items()]


def store_blocks(store: OnlineStore, space: EmbeddingSpace, *, most: int) -> Iterator[Block]:
    """Every vector of a space in the online store, in blocks of some thousand.

    Raises:
        OverflowError: after more than `most` ids.
        SpaceMismatch: the store holds vectors of another encoder under this space's name.
    """
    seen = 0
    for chunk in store.scan(embedding_view(space)):
        ids = [str(entity) for entity in chunk]
        seen += len(ids)
        if seen > most:
            raise OverflowError(f"{space.id}: expected at most {most:,} items, got more")
        for start in range(0, len(ids), _BLOCK_ROWS):
            part = ids[start : start + _BLOCK_ROWS]
            yield part, store.read_embeddings(space, part)


def _at_least(scores: NDArray[np.float32], present: NDArray[np.bool_], floor: np.float32, most: int) -> list[int]:
    """Rows that may be among the best `most`: present, not below `floor`, nor below the `most`-th of these; ties are all in."""
    rows = np.flatnonzero(present & (scores >= floor))
    if len(rows) > most:
        there = scores[rows]
        rows = rows[there >= np.partition(there, len(there) - most)[len(there) - most]]
    found: list[int] = rows.tolist()
    return found
