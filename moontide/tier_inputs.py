"""What the SimTier count is given, checked and brought to the form of its kernels (words as in `moontide.simtier`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import SpaceMismatch
from moontide.tier_kernel import Side

Keys = tuple[NDArray[np.integer] | None, NDArray[np.integer] | None]


def side_of(table: Embeddings, rows: NDArray[np.integer] | None, offsets: NDArray[np.integer]) -> Side:
    """One side of U requests: the rows of `table` that the pointers name, all of them in order where there are none.

    Raises:
        ValueError: offsets that do not rise or do not cover; a pointer outside -1..V - 1.
    """
    pointers = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    _check_offsets(offsets, len(pointers))
    if rows is not None and len(pointers) and (pointers.min() < -1 or pointers.max() >= len(table)):
        raise ValueError(f"rows: expected -1 to {len(table) - 1}, got {pointers.min()} to {pointers.max()}")
    if not len(table):
        table = Embeddings.absent(table.space, 1)
    return Side(table.codes, table.inv_norm, table.present, pointers, np.asarray(offsets, np.int64))


def with_keys(side: Side, keys: NDArray[np.integer] | None, name: str) -> Side:
    """The same with keys; a ValueError speaks of `name`."""
    if keys is None:
        raise ValueError(f"drop_same_id: expected {name}, or ids on candidates and history, got none; use Embeddings.with_ids")
    if keys.shape != side.rows.shape:
        raise ValueError(f"{name}: expected {len(side.rows)} integers, got shape {keys.shape}")
    return replace(side, keys=np.asarray(keys, np.int64))


def keys_of_ids(left: Sequence[str] | None, right: Sequence[str] | None) -> Keys:
    """Integers that are equal where the ids are; few ids are on both sides, and only those are numbered."""
    if left is None or right is None:
        return None, None
    both = set(left).intersection(right)
    number = {item: n for n, item in enumerate(both)}
    keys = np.full(len(left), -1, np.int64), np.full(len(right), -2, np.int64)
    if not both:
        return keys
    for ids, mine in zip((left, right), keys, strict=True):
        shared = np.flatnonzero(np.fromiter(map(both.__contains__, ids), np.bool_, len(ids)))
        mine[shared] = [number[ids[at]] for at in shared.tolist()]
    return keys


def check_spaces(candidates: Embeddings, history: Embeddings, space_id: str) -> None:
    """A SpaceMismatch where a side is not of that space, or the two differ in encoder."""
    for name, side in (("candidates", candidates), ("history", history)):
        if side.space.id != space_id:
            raise SpaceMismatch(f"tier_counts: {name}: expected space {space_id}, got {side.space.id}")
    if candidates.space != history.space:
        raise SpaceMismatch(
            f"tier_counts: both sides are called {space_id} but differ in dim or encoder digest: "
            f"{candidates.space.dim}/{candidates.space.encoder_digest[:15]} and "
            f"{history.space.dim}/{history.space.encoder_digest[:15]}"
        )


def _check_offsets(offsets: NDArray[np.integer], rows: int) -> None:
    ok = offsets.ndim == 1 and len(offsets) >= 1 and offsets[0] == 0 and offsets[-1] == rows
    if not ok or bool((offsets[1:] < offsets[:-1]).any()):
        raise ValueError(f"expected rising offsets from 0 to {rows}, got {offsets[:5]}..{offsets[-1:]}")
