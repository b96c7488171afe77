"""An encoder's vectors of every item a measurement meets, made once, as codes and as the floats before them.

N items, D the space's dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.tasks import Scores, Task, loaded
from encoders.item import Item
from encoders.runtime import Encoder
from moontide.embeddings import Embeddings, concat

BATCH: Final = 256
BOTH: Final = frozenset({"image", "text"})

#: Told how many items of how many are encoded.
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    return None


class Vectors:
    """Vectors by content. `rejects` counts the items that the encoder turned away, by reason; their rows are absent."""

    def __init__(self, encoder: Encoder, *, progress: Progress = _silent) -> None:
        self.encoder = encoder
        self.rejects: Counter[str] = Counter()
        self._progress = progress
        self._rows: dict[tuple[Path, Item], int] = {}
        self._codes = Embeddings.absent(encoder.space, 0)
        self._floats = np.zeros((0, encoder.space.dim), np.float32)

    def codes(self, items: Sequence[Item], folder: Path) -> Embeddings:
        """N rows, as served."""
        places = self._places(items, folder)
        return self._codes.take(places)

    def floats(self, items: Sequence[Item], folder: Path) -> NDArray[np.float32]:
        """(N, D) as they were before quantisation; zero where absent."""
        places = self._places(items, folder)
        return self._floats[places]

    def _places(self, items: Sequence[Item], folder: Path) -> NDArray[np.int64]:
        # The id is no part of the content, and pictures are met in many tasks.
        keys = [(folder, replace(item, item_id="")) for item in items]
        self._add(list(dict.fromkeys(key for key in keys if key not in self._rows)))
        return np.array([self._rows[key] for key in keys], np.int64)

    def _add(self, keys: Sequence[tuple[Path, Item]]) -> None:
        if not keys:
            return
        codes, floats = [self._codes], [self._floats]
        for start in range(0, len(keys), BATCH):
            chunk = keys[start : start + BATCH]
            made = self._encode([replace(item, item_id=str(at)) for at, (_, item) in enumerate(chunk)], chunk[0][0])
            codes.append(Embeddings.from_float(self.encoder.space, made))
            floats.append(made)
            self._progress(start + len(chunk), len(keys))
        self._rows.update({key: len(self._floats) + at for at, key in enumerate(keys)})
        self._codes, self._floats = concat(codes), np.concatenate(floats)

    def _encode(self, items: Sequence[Item], folder: Path) -> NDArray[np.float32]:
        prepared = self.encoder.prepare(loaded(items, folder))
        self.rejects.update(reject.reason.value for reject in prepared.rejects)
        rows = np.zeros((len(items), self.encoder.space.dim), np.float32)
        rows[np.array([int(place) for place in prepared.ids], np.int64)] = self.encoder.floats(prepared)
        return rows


@dataclass(frozen=True, slots=True)
class ByCodes:
    """Cosines of the int8 codes, as served. `dim` is a Matryoshka prefix, or None for the whole vector."""

    name: str
    vectors: Vectors
    dim: int | None = None
    reads: frozenset[str] = BOTH

    def scores(self, task: Task) -> Scores:
        """NaN where either item has no vector: it finds nothing and is not found."""
        sides = [self.vectors.codes(items, task.folder) for items in (task.queries, task.gallery)]
        queries, gallery = (side if self.dim is None else side.prefix(self.dim) for side in sides)
        left, right = queries.codes.astype(np.float32), gallery.codes.astype(np.float32)
        above, beside = (np.where(side.present, side.inv_norm, np.float32(np.nan)) for side in (queries, gallery))

        def block(start: int, stop: int) -> NDArray[np.float32]:
            # The same products in the same order as `encoders.metrics.cosines`.
            return (left[start:stop] @ right.T) * above[start:stop, None] * beside[None, :]

        return block


@dataclass(frozen=True, slots=True)
class ByFloats:
    """Cosines of the float vectors before quantisation: what int8 is compared with."""

    name: str
    vectors: Vectors
    reads: frozenset[str] = BOTH

    def scores(self, task: Task) -> Scores:
        """NaN where either item has no vector: it finds nothing and is not found."""
        left, right = (_unit(self.vectors.floats(items, task.folder)) for items in (task.queries, task.gallery))

        def block(start: int, stop: int) -> NDArray[np.float32]:
            return left[start:stop] @ right.T

        return block


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.full_like(rows, np.nan), where=norms > 0)
