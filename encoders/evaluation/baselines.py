"""What an encoder is measured against: methods that answer the same tasks, through the same scoring."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.tasks import Scores, Task
from moontide.errors import Misconfigured

TEXT: Final = frozenset({"text"})
IMAGE: Final = frozenset({"image"})
CHANCE_DIM: Final = 64


@dataclass(frozen=True, slots=True)
class Chance:
    """Random unit vectors: what a figure is worth when nothing was understood."""

    name: str = "chance"
    seed: int = 0
    reads: frozenset[str] = TEXT | IMAGE

    def scores(self, task: Task) -> Scores:
        """Independent draws for queries and gallery, so that not even equal content helps."""
        draw = np.random.default_rng(self.seed)
        sides = [draw.standard_normal((len(items), CHANCE_DIM)).astype(np.float32) for items in (task.queries, task.gallery)]
        return dense_scores(*(unit_rows(side) for side in sides))


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, W) float32 of length 1; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float32] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


def dense_scores(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> Scores:
    """Dot products of (Q, W) with (G, W) rows, a block of queries at a time."""

    def block(start: int, stop: int) -> NDArray[np.float32]:
        return queries[start:stop] @ gallery.T

    return block


def optional(module: str, package: str) -> Any:
    """A module of the extra ``measure``.

    Raises:
        Misconfigured: its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Misconfigured(
            f"baselines: expected the package {package}, got none; pip install 'moontide[measure]', or leave this baseline out"
        ) from error
