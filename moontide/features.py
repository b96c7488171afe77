"""What jobs, streaming and serving share: from ids to tiers, by one path, so that all of them give the same values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide import schemas
from moontide.embeddings import Embeddings
from moontide.simtier import SimTierSpec, TierCounts, tier_counts, tier_counts_at
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore
from moontide.stores.indexer import order_keys
from moontide.stores.versioned import read_vectors
from moontide.views import embedding_view, user_sequence


@dataclass(frozen=True, slots=True, eq=False)
class RequestTiers:
    """Everything the tiers of one request were computed from.

    candidates (C rows), history (at most L rows, newest last), counts (C, N) and missing (C,), sequence_version.
    """

    candidates: Embeddings
    history: Embeddings
    tiers: TierCounts
    sequence_version: int


def request_tiers(
    store: OnlineStore, space: EmbeddingSpace, spec: SimTierSpec, user_id: str, item_ids: Sequence[str]
) -> RequestTiers:
    """Tiers of C candidates for one user, from the current records: one sequence read, one packed vector read.

    A user without a sequence has counts 0 and missing 0; an item without a vector has counts 0 and the whole history missing.

    Raises:
        SpaceMismatch: the store holds another space's vectors.
    """
    sequence = store.read_sequences(user_sequence(spec.sequence), [user_id])[0]
    seen = sequence.item_ids[-spec.length :]
    vectors = store.read_embeddings(space, [*item_ids, *seen])
    candidates, history = vectors.take(slice(0, len(item_ids))), vectors.take(slice(len(item_ids), None))
    return RequestTiers(candidates, history, tier_counts(candidates, history, spec), sequence.version)


def compute_tiers(
    store: OnlineStore,
    space: EmbeddingSpace,
    spec: SimTierSpec,
    candidates: Mapping[str, Sequence[str]],
    *,
    clock: Callable[[], int],
) -> pa.Table:
    """Tiers to be stored ahead, for each user's candidate list.

    Args:
        store: where sequences and vectors are current.
        space: space of `spec`.
        spec: names the view the rows belong to.
        candidates: user id -> item ids; bounded by the caller (a few thousand pairs a call).
        clock: microseconds UTC; read once, after everything the rows are made from, so that a row never holds what came after its
            `computed_at` and a point-in-time join on it sees no future.

    Returns:
        One row of `schemas.USER_ITEM_SIMTIER` per (user, item), users and items in the order given.
    """
    users = list(candidates)
    sequences = store.read_sequences(user_sequence(spec.sequence), users)
    histories = [s.item_ids[-spec.length :] for s in sequences]
    needed = sorted({i for h in histories for i in h} | {i for items in candidates.values() for i in items})
    vectors, read = read_vectors(store, space, needed)
    keys = order_keys(embedding_view(space), read.records)
    now_us = clock()
    row = {item: n for n, item in enumerate(needed)}
    seen, hist_offsets = _pointers(row, histories)
    mine, cand_offsets = _pointers(row, list(candidates.values()))
    counted = tier_counts_at(vectors, mine, cand_offsets, seen, hist_offsets, spec, candidate_keys=mine, history_keys=seen)
    parts = [_digest_part(item, None if at < 0 else keys[at]) for item, at in zip(needed, read.at.tolist(), strict=True)]
    digests = [_digest([parts[row[item]] for item in history]) for history in histories]
    each = pa.array(np.repeat(np.arange(len(users)), np.diff(cand_offsets)))
    now = pa.array(np.full(len(mine), now_us, np.int64)).cast(schemas.TIMESTAMP)
    columns = {
        "user_id": pa.array(users, pa.string()).take(each),
        "item_id": pa.array(needed, pa.string()).take(pa.array(mine)),
        "event_timestamp": now,
        "created": now,
        "counts": _lists(counted.counts),
        "missing": pa.array(counted.missing),
        "sequence_version": pa.array([s.version for s in sequences], pa.int64()).take(each),
        "history_digest": pa.array(digests, pa.string()).take(each),
        "computed_at": now,
    }
    return pa.table([columns[f.name] for f in schemas.USER_ITEM_SIMTIER], schema=schemas.USER_ITEM_SIMTIER)


def history_digest(item_ids: Sequence[str], versions: Sequence[bytes | None]) -> str:
    """32 hex digits over the history's (item, order key of its record) pairs in order: it changes when any vector of it does."""
    return _digest([_digest_part(item, version) for item, version in zip(item_ids, versions, strict=True)])


def _digest_part(item: str, version: bytes | None) -> bytes:
    return item.encode() + b"\0" + (b"-" if version is None else version)


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _pointers(row: Mapping[str, int], lists: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the ids of all lists end to end, and where each list starts."""
    sizes = np.fromiter(map(len, lists), np.int64, len(lists))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return np.fromiter((row[item] for items in lists for item in items), np.int64, int(offsets[-1])), offsets


def _lists(counts: NDArray[np.int32]) -> pa.Array:
    rows, tiers = counts.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * tiers), pa.array(counts.ravel()))
