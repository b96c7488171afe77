"""From ids to vectors and tiers: the user side, which may be read ahead, and the item side (C candidates, L behaviours)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.live import Service
from moontide.packed_ids import PackedIds
from moontide.row_index import Ids, strings
from moontide.simtier import TierCounts, tier_counts_ragged
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore
from moontide.views import user_sequence

Keys = NDArray[np.int64]


class Vectors(Protocol):
    """Where vectors are read (B ids, repeats allowed). Thread-safe."""

    def read(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """(B, D) in the order asked for, `ids` set; unknown and deleted items are not present.

        Raises:
            SpaceMismatch: the vectors there are of another encoder or dim.
        """

    def read_keyed(self, space: EmbeddingSpace, *ids: Ids) -> tuple[Embeddings, Keys]:
        """The same of some batches of ids end to end, without `ids`, and (B,) int64 that are equal where the ids are."""


class StoreVectors:
    """`Vectors` straight from the online store: one packed read, in which every item is once."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    def read(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """See `Vectors.read`."""
        return self._store.read_embeddings(space, ids)

    def read_keyed(self, space: EmbeddingSpace, *ids: Ids) -> tuple[Embeddings, Keys]:
        """See `Vectors.read_keyed`."""
        numbers, keys = numbered([item for part in ids for item in strings(part)])
        found = self._store.read_embeddings(space, list(numbers))
        rows = np.empty(len(keys), np.int64)
        rows[np.fromiter(numbers.values(), np.int64, len(numbers))] = np.arange(len(numbers))
        at = rows[keys]
        return Embeddings(space, found.codes[at], found.scale[at], found.inv_norm[at], found.present[at]), keys


@dataclass(frozen=True, slots=True, eq=False)
class UserSide:
    """What a request needs of its user, ready for the kernel.

    Attributes:
        sequence_version: of the whole sequence it was cut from.
        history: (L, D) vectors, newest last, one row a behaviour.
        keys: (L,) int64, equal where the items are.
    """

    sequence_version: int
    history: Embeddings
    keys: Keys


@dataclass(frozen=True, slots=True, eq=False)
class UserAhead:
    """A user side that was read ahead of its candidates.

    Attributes:
        side: what a request needs of it.
        ids: L item ids, newest last.
        numbers: the key of each of these items, none below 0.
    """

    side: UserSide
    ids: Sequence[str]
    numbers: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request before it is counted: (C, D) vectors of the candidates, and (C,) keys that match those of the user side."""

    side: UserSide
    candidates: Embeddings
    keys: Keys

    def tiers(self, service: Service) -> TierCounts:
        """Tiers of the candidates."""
        ours, theirs = np.array([0, len(self.candidates)]), np.array([0, len(self.side.history)])
        return tier_counts_ragged(
            self.candidates,
            ours,
            self.side.history,
            theirs,
            service.simtier,
            candidate_keys=self.keys,
            history_keys=self.side.keys,
        )


def read_request(store: OnlineStore, vectors: Vectors, service: Service, user_id: str, item_ids: Sequence[str]) -> Request:
    """Both sides; the vectors of candidates and history from one read."""
    version, seen = read_sequence(store, service, user_id)
    found, keys = vectors.read_keyed(service.space, item_ids, seen)
    ours, theirs = slice(0, len(item_ids)), slice(len(item_ids), None)
    return Request(UserSide(version, found.take(theirs), keys[theirs]), found.take(ours), keys[ours])


def read_ahead(store: OnlineStore, vectors: Vectors, service: Service, user_id: str) -> UserAhead:
    """The user side alone."""
    version, seen = read_sequence(store, service, user_id)
    ids = seen.strings()
    numbers, keys = numbered(ids)
    found, _ = vectors.read_keyed(service.space, seen)
    return UserAhead(UserSide(version, found, keys), ids, numbers)


def read_candidates(ahead: UserAhead, vectors: Vectors, service: Service, item_ids: Sequence[str]) -> Request:
    """The item side, to a user side that was read ahead."""
    found, _ = vectors.read_keyed(service.space, item_ids)
    keys = np.fromiter(map(ahead.numbers.get, item_ids, repeat(-1)), np.int64, len(item_ids))
    return Request(ahead.side, found, keys)


def read_sequence(store: OnlineStore, service: Service, user_id: str) -> tuple[int, PackedIds]:
    """Version of the user's sequence, and the items of the newest behaviours that the service compares with, newest last."""
    spec = service.simtier
    sequence = store.read_sequences(user_sequence(spec.sequence), [user_id])[0]
    return sequence.version, sequence.packed_items(spec.length)


def numbered(ids: Sequence[str]) -> tuple[dict[str, int], Keys]:
    """A number in 0..B - 1 for each distinct id, the place where it is last, and (B,) the number of each."""
    numbers = dict(zip(ids, range(len(ids)), strict=True))
    return numbers, np.fromiter(map(numbers.__getitem__, ids), np.int64, len(ids))


def listed(item_ids: Iterable[str] | pa.Array | pa.ChunkedArray) -> Iterable[str]:
    """`item_ids` with Python strings in it, whatever array holds them.

    Raises:
        TypeError: one string, or nothing that can be iterated.
    """
    if isinstance(item_ids, pa.Array | pa.ChunkedArray):
        return list(item_ids.to_pylist())
    if isinstance(item_ids, np.ndarray):
        item_ids = item_ids.tolist()
    if isinstance(item_ids, str | bytes) or not isinstance(item_ids, Iterable):
        raise TypeError(f"item_ids: expected a list or array of ids, got {type(item_ids).__name__}; pass [item_id] for one")
    return item_ids
