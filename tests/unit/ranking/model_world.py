"""Small batches for tests of ranking models: random ids, vectors, histories; and the same rows in other groups."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch

from moontide.embeddings import Embeddings
from moontide.simtier import SimTierSpec, reference_tier_counts
from moontide.spaces import EmbeddingSpace
from ranking.batch import Batch
from ranking.models.base import Parts, Shapes, Sizes, VectorTable

DIM, ITEMS, TIERS, SCALARS, LABELS = 8, 30, 20, 3, 2
#: Fields of a batch that are given once a group; the others are given for each candidate.
OF_A_GROUP = ("history", "history_vector", "present")


def vectors(seed=0, items=ITEMS, dim=DIM):
    """Embeddings of items 0..items-1; catalog row i + 1 and vector row i + 1 are item i."""
    rng = np.random.default_rng(seed)
    return Embeddings.from_float(EmbeddingSpace("toy", 1, dim), rng.normal(size=(items, dim)), ids=[str(i) for i in range(items)])


def table_rows(embeddings):
    rows = embeddings.codes.astype(np.float32) * embeddings.inv_norm[:, None]
    return torch.from_numpy(np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows]))


def parts(embeddings=None, hidden=(8, 6), width=8, dropout=0.0, tiers=TIERS):
    embeddings = vectors() if embeddings is None else embeddings
    shapes = Shapes(items=len(embeddings) + 1, scalars=SCALARS, tiers=tiers, labels=LABELS)
    return Parts(shapes, Sizes(width, width, hidden, dropout), VectorTable(table_rows(embeddings)))


def make_batch(seed=0, groups=4, candidates=3, length=6, embeddings=None, counted=True):
    """Histories of every length from 0 to L; some items and behaviours without a vector; counts by the kernel's definition."""
    rng = np.random.default_rng(seed)
    embeddings = vectors() if embeddings is None else embeddings
    items = len(embeddings)
    item = rng.integers(0, items, (groups, candidates)) + 1
    history = rng.integers(0, items, (groups, length)) + 1
    known = rng.integers(0, length + 1, groups)
    known[: min(groups, 2)] = (0, length)[: min(groups, 2)]
    present = np.arange(length)[None, :] >= length - known[:, None]
    history = np.where(present, history, 0)
    vector = np.where(rng.random(item.shape) < 0.8, item, 0)
    history_vector = np.where(rng.random(history.shape) < 0.8, history, 0)
    counts = np.zeros((groups, candidates, TIERS + 1), np.float32)
    spec = SimTierSpec("toy_v1", tiers=TIERS, length=max(length, 1))
    for g in range(groups if counted else 0):
        seen = present[g]
        mine = _taken(embeddings, item[g], vector[g])
        found = reference_tier_counts(mine, _taken(embeddings, history[g][seen], history_vector[g][seen]), spec)
        counts[g] = np.column_stack([found.counts, found.missing])
    return Batch(
        item=torch.from_numpy(item),
        vector=torch.from_numpy(vector),
        valid=torch.from_numpy(rng.random(item.shape) < 0.9),
        history=torch.from_numpy(history),
        history_vector=torch.from_numpy(history_vector),
        present=torch.from_numpy(present),
        scalars=torch.from_numpy(rng.random((groups, candidates, SCALARS)).astype(np.float32) * 5),
        counts=torch.from_numpy(counts),
        label=torch.from_numpy(rng.integers(0, 2, item.shape).astype(np.float32)),
        labels=torch.from_numpy(rng.integers(0, 2, (*item.shape, LABELS)).astype(np.float32)),
    )


def _taken(embeddings, rows, have):
    """Rows of the catalog, numbered from 1; those whose `have` is 0 lose their vector."""
    taken = embeddings.take(rows - 1)
    return replace(taken, present=taken.present & (have > 0))


def one_each(batch):
    """The same rows, each a group of its own (K = 1)."""
    groups, candidates = batch.item.shape
    made = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if field.name in OF_A_GROUP:
            made[field.name] = value.repeat_interleave(candidates, dim=0)
        else:
            made[field.name] = value.reshape(groups * candidates, 1, *value.shape[2:])
    return Batch(**made)


def padded(batch, more=5):
    """The same batch with more padding in front of the histories."""

    def in_front(value):
        return torch.cat([torch.zeros(value.shape[0], more, dtype=value.dtype), value], dim=1)

    return replace(batch, **{name: in_front(getattr(batch, name)) for name in OF_A_GROUP})


def without_vectors(batch):
    return replace(batch, vector=torch.zeros_like(batch.vector), history_vector=torch.zeros_like(batch.history_vector))


def of_groups(batch, rows):
    return Batch(**{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})
