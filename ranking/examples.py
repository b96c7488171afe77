"""Everything a model reads of one training set, as tensors a batch at a time.

I impressions, R requests, F scalars, N tiers, V vectors of D dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit.training_set import TrainingSet
from ranking.batch import Batch
from ranking.groups import groups_of
from ranking.models.base import Shapes, Statistics
from ranking.splits import Split

Ints = NDArray[np.int64]
#: Groups, and candidates of each, that statistics are taken from.
SAMPLE: Final = (1024, 32)


@dataclass(frozen=True, slots=True)
class Examples:
    """A training set, its split, and what a model of one kind reads of it.

    Attributes:
        length: L; longer histories are cut to their newest behaviours.
        scalars: (I, F) float32 in the order of `names`.
        counts: (I, N + 1) float32, tier counts and `missing`; N may be 0.
        labels: (I, A) float32, further labels, NaN where not known.
    """

    data: TrainingSet
    split: Split
    length: int
    names: tuple[str, ...]
    scalars: NDArray[np.float32]
    counts: NDArray[np.float32]
    labels: NDArray[np.float32]

    @property
    def shapes(self) -> Shapes:
        """What a model is built for."""
        tiers = self.counts.shape[1] - 1
        return Shapes(len(self.data.item_ids) + 1, self.scalars.shape[1], max(tiers, 0), self.labels.shape[1])

    @property
    def bounds(self) -> tuple[Ints, Ints]:
        """(R,) start and (R,) stop of each request's history, cut to L."""
        stop = self.data.history_offsets[1:]
        return np.maximum(self.data.history_offsets[:-1], stop - self.length), stop

    def users(self, rows: Ints) -> Ints:
        """(B,) user of each impression."""
        return self.data.request_user[self.data.request[rows]]

    def statistics(self) -> Statistics:
        """Of the training rows."""
        rows, data = self.split.train, self.data
        seen = np.zeros(len(data.item_ids) + 1, bool)
        seen[data.item[rows] + 1] = True
        start, stop = self.bounds
        requests = np.unique(data.request[rows])
        for begin, end in zip(start[requests], stop[requests], strict=True):
            seen[data.history_items[begin:end] + 1] = True
        groups = groups_of(data.request, rows, SAMPLE[1], np.random.default_rng(0))
        chosen = np.random.default_rng(0).permutation(len(groups))[: SAMPLE[0]]
        return Statistics(self.batch(groups[np.sort(chosen)]), torch.from_numpy(seen))

    def batch(self, groups: Ints) -> Batch:
        """Tensors of (G, K) groups of impressions, -1 where there is none."""
        data, rows, valid = self.data, np.maximum(groups, 0), groups >= 0
        request = data.request[rows[:, 0]]
        start, stop = (part[request] for part in self.bounds)
        width = max(int((stop - start).max(initial=0)), 1)
        at = stop[:, None] - np.arange(width, 0, -1)[None, :]
        present = at >= start[:, None]
        at = np.where(present, at, 0)
        history = np.where(present, _taken(data.history_items, at) + 1, 0)
        vectors = np.where(present, _taken(data.history_vectors, at) + 1, 0)
        return Batch(
            item=torch.from_numpy(np.where(valid, data.item[rows] + 1, 0)),
            vector=torch.from_numpy(np.where(valid, data.vector[rows] + 1, 0)),
            valid=torch.from_numpy(valid),
            history=torch.from_numpy(history),
            history_vector=torch.from_numpy(vectors),
            present=torch.from_numpy(present),
            scalars=torch.from_numpy(self.scalars[rows]),
            counts=torch.from_numpy(self.counts[rows]),
            label=torch.from_numpy(data.label[rows]),
            labels=torch.from_numpy(self.labels[rows]),
        )


def make_examples(
    data: TrainingSet, split: Split, *, length: int, labels: Sequence[str] = (), drop: Sequence[str] = ()
) -> Examples:
    """Examples without tiers, and without the scalars named in `drop`.

    Raises:
        Misconfigured: the set's histories are shorter than `length` asks for, a label is not in it, a primary one is not 0 or 1,
            or a further one neither 0 to 1 nor NaN.
    """
    made = data.card.get("length")
    if made is not None and length > made:
        raise Misconfigured(
            f"length: expected at most {made}, the training set's, got {length}; build the set with --length {length}"
        )
    unknown = sorted(set(labels) - set(data.labels))
    if unknown:
        raise Misconfigured(f"labels: expected some of {sorted(data.labels)}, got {unknown}")
    _check_label(data, "label", data.label, (data.label == 0) | (data.label == 1), "0 or 1")
    for name in labels:
        values = data.labels[name]
        _check_label(data, name, values, ((values >= 0) & (values <= 1)) | np.isnan(values), "0 to 1, or null")
    rows = len(data.item)
    names = tuple(name for name in data.scalars if name not in drop)
    scalars = np.stack([data.scalars[name] for name in names], axis=1) if names else np.zeros((rows, 0), np.float32)
    further = np.stack([data.labels[name] for name in labels], axis=1) if labels else np.zeros((rows, 0), np.float32)
    return Examples(data, split, length, names, np.nan_to_num(scalars), np.zeros((rows, 1), np.float32), further)


def _check_label(data: TrainingSet, name: str, values: NDArray[np.float32], good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        first, count = int(np.argmin(good)), len(good) - np.count_nonzero(good)
        raise Misconfigured(
            f"{name}: expected labels {expected}, got {values[first]:g} in label_row {data.label_row[first]}, one of {count} "
            f"such of {len(good)} rows; make the training set of labels that are 1 for what is to be predicted, else 0"
        )


def _taken(values: Ints, at: Ints) -> Ints:
    return values[at] if len(values) else np.zeros(at.shape, np.int64)
