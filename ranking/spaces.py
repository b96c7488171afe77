"""Which vectors a model reads: those of the training set, another space's beside them, or shuffled ones as a control."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit.training_set import TrainingSet
from moontide.simtier import SimTierSpec, tier_counts_at
from ranking.examples import Examples


def with_vectors(data: TrainingSet, vectors: Embeddings) -> TrainingSet:
    """The same labels with another space's vectors, one an item, the same at every time. Stored tier counts are left behind.

    Raises:
        Misconfigured: vectors without ids, or of none of the set's items.
    """
    if vectors.ids is None:
        raise Misconfigured("vectors: expected ids, got none; write them with encoders.study encode")
    rows = {item: row for row, item in enumerate(vectors.ids) if vectors.present[row]}
    place = np.fromiter((rows.get(item, -1) for item in data.item_ids), np.int64, len(data.item_ids))
    if len(place) and not (place >= 0).any():
        raise Misconfigured(f"vectors: expected some of the set's {len(place)} items, got none, but e.g. {vectors.ids[:3]}")
    return replace(
        data, vectors=vectors, vector=place[data.item], history_vectors=place[data.history_items],
        counts=np.zeros((len(data), 0), np.int32), missing=np.zeros(len(data), np.int32),
    )  # fmt: skip


def shuffled(data: TrainingSet, seed: int) -> TrainingSet:
    """The same vectors, each given to another item: what a model gains from these comes from no content."""
    if data.vectors is None:
        return data
    there = np.flatnonzero(data.vectors.present)
    order = np.arange(len(data.vectors))
    order[there] = np.random.default_rng(seed).permutation(there)
    return replace(data, vectors=data.vectors.take(order))


def with_tiers(examples: Examples, tiers: int) -> Examples:
    """The examples with SimTier counts over their histories, by the kernel that serving uses, the candidate itself left out.

    Raises:
        Misconfigured: a training set without vectors.
    """
    data = examples.data
    if data.vectors is None:
        raise Misconfigured("SimTier: expected a training set with vectors, got none; build it with --space, or give --vectors")
    spec = SimTierSpec(data.vectors.space.id, tiers=tiers, length=examples.length)
    start, stop = examples.bounds
    sizes = stop - start
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    at = np.repeat(start - offsets[:-1], sizes) + np.arange(offsets[-1])
    found = tier_counts_at(
        data.vectors, data.vector, data.offsets, data.history_vectors[at], offsets, spec,
        candidate_keys=data.item, history_keys=data.history_items[at],
    )  # fmt: skip
    columns = np.column_stack([found.counts, found.missing]).astype(np.float32)
    return replace(examples, counts=columns)


def vector_rows(data: TrainingSet) -> torch.Tensor:
    """(V + 1, D) float32 unit vectors, row 0 zero: what `VectorTable` holds."""
    if data.vectors is None:
        return torch.zeros((1, 1))
    rows = data.vectors.codes.astype(np.float32) * data.vectors.inv_norm[:, None]
    rows[~data.vectors.present] = 0
    return torch.from_numpy(np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows]))
