"""Rules every vector index keeps: what may be written and asked, how hits are scored and ranked, and the words of refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide import names
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.order import KEY_BYTES
from moontide.spaces import EmbeddingSpace, describe, require_same_space
from moontide.stores.base import Matches
from moontide.tier_kernel import exact_dots

MAX_HITS: Final = 16_384
MIN_DIM: Final = 2


def require_own_collection(space: EmbeddingSpace) -> None:
    """Refuse a Matryoshka prefix: only its parent has a collection, and a prefix ranks in another order than the whole.

    Raises:
        Misconfigured: `space` is a prefix, or has a single dim (Milvus takes two or more).
    """
    if space.dim < MIN_DIM:
        raise Misconfigured(f"index: expected a space of {MIN_DIM} or more dims, got {space.dim}; encode into a wider one")
    if space.prefix_of:
        raise Misconfigured(
            f"index: expected a space with a collection of its own, got the prefix {space.id}; use {space.stored_id}"
        )


def require_rows(space: EmbeddingSpace, embeddings: Embeddings, tokens: Sequence[bytes]) -> list[str]:
    """The ids of rows that may be upserted.

    Raises:
        SpaceMismatch: rows of another space.
        Poison: an invalid id.
        ValueError: no ids, a row that is not present, or tokens that are not one order key per row.
    """
    require_same_space(space, embeddings.space, where="index upsert")
    if embeddings.ids is None or not embeddings.present.all():
        raise ValueError("index upsert: expected ids and only present rows; take() the present ones, delete() the others")
    if len(tokens) != len(embeddings) or any(len(t) != KEY_BYTES for t in tokens):
        raise ValueError(f"index upsert: expected {len(embeddings)} tokens of {KEY_BYTES} bytes, got {len(tokens)}")
    return names.require_ids(embeddings.ids)


def require_query(space: EmbeddingSpace, queries: Embeddings, k: int) -> None:
    """Check a search.

    Raises:
        SpaceMismatch: queries of another space.
        ValueError: `k` outside 1 to `MAX_HITS`.
    """
    require_same_space(space, queries.space, where="index search")
    if not 1 <= k <= MAX_HITS:
        raise ValueError(f"index search: expected k from 1 to {MAX_HITS}, got {k}")


def cosines(
    left: NDArray[np.int8], left_inv: NDArray[np.float32], right: NDArray[np.int8], right_inv: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(Q, R) float32 cosines of codes, as SimTier defines them: dot, times the left norm, times the right norm."""
    scores = exact_dots(left, right)
    scores *= left_inv[:, None]
    scores *= right_inv[None, :]
    return scores


def ranked(ids: Sequence[str], scores: NDArray[np.float32], k: int) -> tuple[list[str], NDArray[np.float32]]:
    """The best `k` of candidates by falling score, equal scores by rising id."""
    limit = min(k, len(ids))
    if not limit:
        return [], np.empty(0, np.float32)
    floor = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    near = np.flatnonzero(scores >= floor)
    best = sorted(near, key=lambda n: (-scores[n], ids[int(n)]))[:limit]
    return [ids[int(n)] for n in best], scores[best]


def matches(hits: list[tuple[list[str], NDArray[np.float32]]], k: int) -> Matches:
    """`Matches` of per-query hits."""
    scores = np.full((len(hits), k), np.nan, np.float32)
    for row, (_, found) in enumerate(hits):
        scores[row, : len(found)] = found
    return Matches([ids for ids, _ in hits], scores)


def missing(space: EmbeddingSpace) -> str:
    """Message: the collection does not exist."""
    return f"index: expected collection {space.collection}, got none; encode into {space.id} first (backfill), or ensure() it"


def mismatch(space: EmbeddingSpace, got: str) -> str:
    """Message: the collection holds another space."""
    return (
        f"index collection {space.collection}: expected space {describe(space)}, got {got}; "
        "give the new encoder a space version of its own, or drop the old space"
    )


def aliased(space: EmbeddingSpace) -> str:
    """Message: the collection is served."""
    return f"drop {space.collection}: expected no alias on it, got {space.alias}; point the alias at another space first"
