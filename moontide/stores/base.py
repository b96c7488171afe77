"""What every store of a kind promises. Adapters implement these; the contract tests hold them to it.

Shapes: B ids, D dims, Q queries, K hits. Unknown ids are never an error: they come back absent, in the place asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.sequences import BehaviourSequence
from moontide.spaces import EmbeddingSpace
from moontide.views import ViewSpec

#: One entity: the join-key value, or the values in the view's key order where it has several.
EntityId = str | tuple[str, ...]


class Status(IntEnum):
    """What a read found at one id."""

    PRESENT = 0
    ABSENT = 1
    EXPIRED = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class WriteCounts:
    """What became of the rows of a write; their sum is the number of rows."""

    applied: int = 0
    equal: int = 0
    stale: int = 0

    def __add__(self, other: WriteCounts) -> WriteCounts:
        return WriteCounts(self.applied + other.applied, self.equal + other.equal, self.stale + other.stale)


class Matrix(NamedTuple):
    """A packed numeric read: values (B, D) float32 (NaN where not present), status (B,) int8 of `Status`,
    event_timestamps (B,) int64 microseconds (0 where absent; kept where expired or deleted).
    """

    values: NDArray[np.float32]
    status: NDArray[np.int8]
    event_timestamps: NDArray[np.int64]


class Heads(NamedTuple):
    """Where each id stands in the write order, without its value; zeros where absent.

    status (B,) int8 (`EXPIRED` is not told apart from `PRESENT`), source_version / event_timestamp / encoded_at (B,) int64,
    content_hash (B, 16) uint8.
    """

    status: NDArray[np.int8]
    source_version: NDArray[np.int64]
    event_timestamp: NDArray[np.int64]
    encoded_at: NDArray[np.int64]
    content_hash: NDArray[np.uint8]


class DirtyMark(NamedTuple):
    """An item whose index entry may differ from its online record; `token` is the record's order key when it was marked."""

    item_id: str
    token: bytes


class OnlineStore(Protocol):
    """The only arbiter of what is current. Safe for many processes; one object per process and thread-safe."""

    def write_rows(self, view: ViewSpec, rows: pa.Table) -> WriteCounts:
        """Write rows of ``view.table``'s schema, each fenced in the store's own transaction.

        Embedding rows that win, or equal the stored one, mark the item dirty in the same transaction. Sequence rows merge. Of
        two rows for one entity in one call the higher order wins. A write of no rows changes nothing and checks whether this
        process may write to the view at all.

        Raises:
            SpaceMismatch: rows of another space, or a view whose first writer was of another encoder or dim. Nothing was written.
            Misconfigured: columns missing, or a sequence view whose first writer kept another length. Nothing was written; where
                the store is full, part of the rows may be (writing them again is safe).
            Poison: an invalid id, a null `source_version`, or a time beyond now + 5 min. Nothing was written.
            Transient: the store did not answer; part of the rows may have been written (writing them again is safe).
        """

    def read_embeddings(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """(B, D) in the order asked for, `ids` set; absent and deleted items are not present. No vector expires here.

        Raises:
            SpaceMismatch: the store's records of this view were made by another encoder or dim.
        """

    def read_columns(self, view: ViewSpec, ids: Sequence[EntityId], fields: Sequence[str]) -> pa.Table:
        """B rows: the view's join keys, the named fields (null where there is no value), ``event_timestamp``, ``status``."""

    def read_matrix(self, view: ViewSpec, ids: Sequence[EntityId]) -> Matrix:
        """The numeric fields of a view as one matrix; for an embedding view the float vector."""

    def read_sequences(self, view: ViewSpec, user_ids: Sequence[str]) -> list[BehaviourSequence]:
        """One sequence per user, empty where there is none."""

    def read_records(self, view: ViewSpec, ids: Sequence[EntityId]) -> pa.Table:
        """The current records, tombstones included, as rows of ``view.table`` (absent ids are left out)."""

    def heads(self, view: ViewSpec, ids: Sequence[EntityId]) -> Heads:
        """The write order each id stands at: what backfill anti-joins with."""

    def read_current(self, space: EmbeddingSpace, ids: Sequence[str]) -> tuple[Embeddings, Heads]:
        """`read_embeddings` with the heads of the very same records, from one read.

        Raises:
            SpaceMismatch: as `read_embeddings`.
        """

    def dirty(self, space: EmbeddingSpace, limit: int) -> list[DirtyMark]:
        """Up to `limit` items whose index entry is to be brought up to date."""

    def clear_dirty(self, space: EmbeddingSpace, marks: Sequence[DirtyMark]) -> int:
        """Clear marks that are still as they were read; returns how many. One marked anew meanwhile stays."""

    def mark_dirty(self, space: EmbeddingSpace, ids: Sequence[str]) -> int:
        """Mark stored items dirty (repair: the index was found to lack them); returns how many had a record."""

    def delete(self, view: ViewSpec, ids: Sequence[EntityId]) -> int:
        """Remove records for good, with no tombstone (any version is accepted after it); returns how many there were."""

    def drop_view(self, view: ViewSpec) -> int:
        """Remove every record and mark of a view, and what its first writer fixed (space, length); returns how many records.

        Restart the processes that wrote to it before another encoder or length does: each checks once.
        """

    def count(self, view: ViewSpec) -> int:
        """Records of a view, tombstones included; near that while others write or remove."""

    def scan(self, view: ViewSpec) -> Iterator[list[EntityId]]:
        """Every entity of a view, in chunks, for audits; sees at least all that was there from start to end.

        While others write or remove, one may come twice.
        """

    def foreign_keys(self) -> int:
        """About how many keys of others `scan` and `count` of a view walk through too; 0 where a view lies by itself."""

    def close(self) -> None:
        """Release the store; the object is not usable after it."""


class Matches(NamedTuple):
    """Hits of Q queries: ids[q] in falling score order, scores (Q, K) float32 cosine (NaN past the last hit)."""

    ids: list[list[str]]
    scores: NDArray[np.float32]


class VectorIndex(Protocol):
    """Nearest neighbours per space. Follows the online store; never decides what is current."""

    def ensure(self, space: EmbeddingSpace) -> None:
        """Create the space's collection where there is none; `SpaceMismatch` where one of another encoder or dim is."""

    def upsert(self, space: EmbeddingSpace, embeddings: Embeddings, tokens: Sequence[bytes]) -> None:
        """Insert or replace rows (ids set, all present) with the order key each was made from.

        Raises:
            SpaceMismatch: rows of another space.
            Transient: the index failed; it has been reopened, and everything since the last flush is to be written again.
        """

    def delete(self, space: EmbeddingSpace, ids: Sequence[str]) -> None:
        """Remove rows; unknown ids are fine."""

    def tokens(self, space: EmbeddingSpace, ids: Sequence[str]) -> list[bytes | None]:
        """The order key each indexed row was made from; None where there is no row."""

    def scan(self, space: EmbeddingSpace) -> Iterator[list[tuple[str, bytes]]]:
        """Every (item id, order key) of a space, in pages, for repair; sees at least all that was there from start to end."""

    def search(self, space: EmbeddingSpace, queries: Embeddings, k: int) -> Matches:
        """The k nearest items of each query by cosine; fewer where the space holds fewer. An absent query has none.

        Raises:
            SpaceMismatch: queries of another space.
        """

    def count(self, space: EmbeddingSpace) -> int:
        """Rows of a space."""

    def flush(self, space: EmbeddingSpace) -> None:
        """Make everything written so far durable."""

    def point_alias(self, space: EmbeddingSpace) -> None:
        """Atomically point the family's alias at this space's collection."""

    def resolve_alias(self, name: str) -> str | None:
        """Id of the space the alias of family `name` points at; None where there is none."""

    def drop(self, space: EmbeddingSpace) -> None:
        """Remove the space's collection for good (refused while the alias points at it: `Misconfigured`)."""

    def close(self) -> None:
        """Release the index."""
