"""From ids to vectors and tiers: the user side, which may be read ahead, and the item side (C candidates, L behaviours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.live import Service
from moontide.simtier import TierCounts, tier_counts_ragged
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore
from moontide.views import user_sequence


class Vectors(Protocol):
    """Where vectors are read. Thread-safe."""

    def read(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """(B, D) in the order asked for; unknown and deleted items are not present. `ids` may be left None.

        Raises:
            SpaceMismatch: the vectors there are of another encoder or dim.
        """


class StoreVectors:
    """`Vectors` straight from the online store: one packed read."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    def read(self, space: EmbeddingSpace, ids: Sequence[str]) -> Embeddings:
        """See `Vectors.read`."""
        return self._store.read_embeddings(space, ids)


@dataclass(frozen=True, slots=True, eq=False)
class UserSide:
    """What a request needs of its user, ready for the kernel.

    Attributes:
        sequence_version: of the whole sequence it was cut from.
        history: (L, D) vectors, newest last, one row a behaviour.
        keys: (L,) int64, equal where the items are.
        numbers: the key of each item of the history.
    """

    sequence_version: int
    history: Embeddings
    keys: NDArray[np.int64]
    numbers: dict[str, int]


def read_user(store: OnlineStore, vectors: Vectors, service: Service, user_id: str) -> UserSide:
    """The user side alone: the sequence, and the vectors of the items in it, each read once."""
    version, seen = read_sequence(store, service, user_id)
    numbers, at = numbered(seen)
    found = vectors.read(service.space, list(numbers))
    return UserSide(version, _rows(found, at), at, numbers)


def read_request(
    store: OnlineStore, vectors: Vectors, service: Service, user_id: str, item_ids: Sequence[str]
) -> tuple[UserSide, Embeddings]:
    """The user side and the vectors of C candidates from one packed read, an item that is on both sides once."""
    version, seen = read_sequence(store, service, user_id)
    numbers, at = numbered([*item_ids, *seen])
    found = vectors.read(service.space, list(numbers))
    ours, theirs = at[: len(item_ids)], at[len(item_ids) :]
    return UserSide(version, _rows(found, theirs), theirs, numbers), _rows(found, ours)


def read_candidates(vectors: Vectors, service: Service, item_ids: Sequence[str]) -> Embeddings:
    """(C, D) vectors, the item side alone."""
    numbers, at = numbered(item_ids)
    return _rows(vectors.read(service.space, list(numbers)), at)


def count_tiers(service: Service, side: UserSide, item_ids: Sequence[str], candidates: Embeddings) -> TierCounts:
    """Tiers of C candidates against one user side."""
    number = side.numbers.get
    keys = np.fromiter([number(item, -1) for item in item_ids], np.int64, len(item_ids))
    ours, theirs = np.array([0, len(candidates)]), np.array([0, len(side.history)])
    return tier_counts_ragged(
        candidates, ours, side.history, theirs, service.simtier, candidate_keys=keys, history_keys=side.keys
    )


def read_sequence(store: OnlineStore, service: Service, user_id: str) -> tuple[int, Sequence[str]]:
    """Version of the user's sequence, and the items of the newest behaviours that the service compares with, newest last."""
    spec = service.simtier
    sequence = store.read_sequences(user_sequence(spec.sequence), [user_id])[0]
    return sequence.version, sequence.item_ids[-spec.length :]


def numbered(ids: Sequence[str]) -> tuple[dict[str, int], NDArray[np.int64]]:
    """A number from 0 for each distinct id, in order of appearance, and (B,) the number of each."""
    numbers = {item: number for number, item in enumerate(dict.fromkeys(ids))}
    return numbers, np.fromiter(map(numbers.__getitem__, ids), np.int64, len(ids))


def _rows(found: Embeddings, at: NDArray[np.int64]) -> Embeddings:
    """Rows of a batch whose ids are of no interest any more."""
    return Embeddings(found.space, found.codes[at], found.scale[at], found.inv_norm[at], found.present[at])
