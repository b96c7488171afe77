"""The vector index in memory: exact, the shipped test double, and the oracle of the others. Nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide import names
from moontide.embeddings import Embeddings, inverse_norms
from moontide.errors import Misconfigured, SpaceMismatch
from moontide.spaces import EmbeddingSpace, describe
from moontide.stores import index_rules as rules
from moontide.stores.base import Matches

_PAIRS: Final = 1 << 24
_PAGE: Final = 1_000


@dataclass(slots=True)
class _Collection:
    space: EmbeddingSpace
    rows: dict[str, tuple[NDArray[np.int8], bytes]] = field(default_factory=dict)
    matrix: tuple[list[str], NDArray[np.int8], NDArray[np.float32]] | None = None

    def packed(self) -> tuple[list[str], NDArray[np.int8], NDArray[np.float32]]:
        if self.matrix is None:
            codes = np.array([c for c, _ in self.rows.values()], np.int8).reshape(-1, self.space.dim)
            self.matrix = (list(self.rows), codes, inverse_norms(codes))
        return self.matrix


class MemoryIndex:
    """Exact nearest neighbours over int8 codes in memory; implements `VectorIndex`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._collections: dict[str, _Collection] = {}
        self._aliases: dict[str, str] = {}

    def ensure(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.ensure`; `Misconfigured` for a prefix space."""
        rules.require_own_collection(space)
        with self._lock:
            found = self._collections.setdefault(space.collection, _Collection(space))
        if found.space != space:
            raise SpaceMismatch(rules.mismatch(space, describe(found.space)))

    def upsert(self, space: EmbeddingSpace, embeddings: Embeddings, tokens: Sequence[bytes]) -> None:
        """As `VectorIndex.upsert`; of two rows with one id the last wins."""
        ids = rules.require_rows(space, embeddings, tokens)
        with self._lock:
            collection = self._collection(space)
            for row, item in enumerate(ids):
                collection.rows[item] = (embeddings.codes[row].copy(), bytes(tokens[row]))
            collection.matrix = None

    def delete(self, space: EmbeddingSpace, ids: Sequence[str]) -> None:
        """As `VectorIndex.delete`."""
        with self._lock:
            collection = self._collection(space)
            for item in names.require_ids(ids):
                collection.rows.pop(item, None)
            collection.matrix = None

    def tokens(self, space: EmbeddingSpace, ids: Sequence[str]) -> list[bytes | None]:
        """As `VectorIndex.tokens`."""
        with self._lock:
            rows = self._collection(space).rows
            return [rows[i][1] if i in rows else None for i in names.require_ids(ids)]

    def search(self, space: EmbeddingSpace, queries: Embeddings, k: int) -> Matches:
        """As `VectorIndex.search`; exact, equal scores by rising id."""
        rules.require_query(space, queries, k)
        with self._lock:
            ids, codes, inverse = self._collection(space).packed()
        hits: list[tuple[list[str], NDArray[np.float32]]] = []
        step = max(1, _PAIRS // max(1, len(ids)))
        for start in range(0, len(queries), step):
            block = queries.take(slice(start, start + step))
            scores = rules.cosines(block.codes, block.inv_norm, codes, inverse)
            hits += [rules.ranked(ids, s, k) if block.present[q] else ([], s[:0]) for q, s in enumerate(scores)]
        return rules.matches(hits, k)

    def count(self, space: EmbeddingSpace) -> int:
        """As `VectorIndex.count`."""
        with self._lock:
            return len(self._collection(space).rows)

    def scan(self, space: EmbeddingSpace) -> Iterator[list[tuple[str, bytes]]]:
        """As `VectorIndex.scan`."""
        with self._lock:
            rows = [(item, token) for item, (_, token) in self._collection(space).rows.items()]
        for start in range(0, len(rows), _PAGE):
            yield rows[start : start + _PAGE]

    def flush(self, space: EmbeddingSpace) -> None:
        """Nothing is durable here."""
        self._collection(space)

    def point_alias(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.point_alias`."""
        with self._lock:
            self._collection(space)
            self._aliases[space.alias] = space.stored_id

    def resolve_alias(self, name: str) -> str | None:
        """As `VectorIndex.resolve_alias`."""
        return self._aliases.get(names.collection_alias(name))

    def drop(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.drop`."""
        rules.require_own_collection(space)
        with self._lock:
            if space.collection not in self._collections:
                return
            self._collection(space)
            if self._aliases.get(space.alias) == space.stored_id:
                raise Misconfigured(rules.aliased(space))
            del self._collections[space.collection]

    def close(self) -> None:
        """Nothing to release."""

    def _collection(self, space: EmbeddingSpace) -> _Collection:
        rules.require_own_collection(space)
        found = self._collections.get(space.collection)
        if found is None:
            raise Misconfigured(rules.missing(space))
        if found.space != space:
            raise SpaceMismatch(rules.mismatch(space, describe(found.space)))
        return found
