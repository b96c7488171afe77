"""What the kernel's benchmark compares: one request's vectors, and the systems that count its tiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from moontide import Embeddings, EmbeddingSpace
from moontide.tier_kernel import Side

TIERS: Final = 20
#: Values in a temporary of MUSE's formulation above which the cell is left out.
_MUSE_VALUES: Final = 70_000_000

Counts = np.ndarray
Cell = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """C candidates, L behaviours, D dims."""

    candidates: int
    behaviours: int
    dim: int

    @property
    def pairs(self) -> int:
        return self.candidates * self.behaviours

    def __str__(self) -> str:
        return f"{self.candidates:,} x {self.behaviours:,} x {self.dim}"


@dataclass(frozen=True)
class World:
    """One request: vectors around 50 centres, so that the cosines fill most tiers."""

    shape: Shape
    candidates: Embeddings
    history: Embeddings

    @classmethod
    def make(cls, shape: Shape, *, seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(50, shape.dim))
        space = EmbeddingSpace("bench", 1, shape.dim)

        def side(rows: int) -> Embeddings:
            values = 1.5 * centres[rng.integers(0, 50, rows)] + rng.normal(size=(rows, shape.dim))
            return Embeddings.from_float(space, values.astype(np.float32))

        return cls(shape, side(shape.candidates), side(shape.behaviours))

    def sides(self) -> tuple[Side, Side]:
        """As the kernels take them."""
        both = (self.candidates, self.history)
        left, right = (
            Side(e.codes, e.inv_norm, e.present, np.arange(len(e)), np.array([0, len(e)], np.int64), None) for e in both
        )
        return left, right

    def units(self) -> tuple[np.ndarray, np.ndarray]:
        """The same directions as unit float32 vectors, as float systems hold them."""
        left, right = (e.codes.astype(np.float32) * e.inv_norm[:, None] for e in (self.candidates, self.history))
        return left, right


def binned(scores: np.ndarray) -> Counts:
    """(C, N) counts of (C, L) cosines, which are written over: one `bincount` over all rows."""
    scores *= TIERS // 2
    np.ceil(scores, out=scores)
    tiers = np.clip(scores.astype(np.int32) + (TIERS // 2 - 1), 0, TIERS - 1)
    tiers += (np.arange(len(scores), dtype=np.int32) * TIERS)[:, None]
    return np.bincount(tiers.ravel(), minlength=len(scores) * TIERS).reshape(-1, TIERS)


def numpy_cell(world: World) -> Cell:
    """What one writes in numpy."""
    left, right = world.units()
    return lambda: binned(left @ right.T)


def numkong_product(world: World) -> Cell:
    """The int8 product alone, into memory that is there, of behaviours packed before: no scale, no tiers, no counts."""
    import numkong

    left, packed = world.candidates.codes, numkong.dots_pack(world.history.codes)
    out = numkong.dots_packed(left, packed)
    return lambda: numkong.dots_packed(left, packed, out=out)


def numkong_cell(world: World) -> Cell:
    """The int8 product, then scale and `bincount`: exact too, in the order of the definition."""
    import numkong

    ours, theirs = world.candidates, world.history

    def run() -> Counts:
        scores = np.asarray(numkong.dots_packed(ours.codes, numkong.dots_pack(theirs.codes))).astype(np.float32)
        scores *= ours.inv_norm[:, None]
        scores *= theirs.inv_norm[None, :]
        return binned(scores)

    return run


def torch_cells(world: World) -> dict[str, Cell]:
    """What one writes in torch, and the formulation of MUSE's released code.

    MUSE (arXiv 2512.07216, `model/base_model/simtier.py`): cosine by normalised products summed over the dims, ids
    ``ceil(cos * 10) + 10``, each id compared with all 22 bins, sums over time. Here the history is broadcast, where the released
    code copies it for every candidate first.
    """
    import torch

    torch.set_num_threads(1)
    left, right = map(torch.from_numpy, world.units())
    bins = torch.arange(0, TIERS + 2).reshape(1, -1, 1)

    def bincount() -> Counts:
        ids = torch.ceil_(torch.mm(left, right.T).mul_(TIERS // 2)).to(torch.int32).add_(TIERS // 2 - 1).clamp_(0, TIERS - 1)
        ids += torch.arange(len(left), dtype=torch.int32)[:, None] * TIERS
        return torch.bincount(ids.view(-1), minlength=len(left) * TIERS).view(-1, TIERS).numpy()

    def muse() -> Counts:
        normal = torch.nn.functional.normalize
        cosine = (normal(left[:, None, :], dim=2) * normal(right[None], dim=2)).sum(dim=2)
        ids = torch.ceil(cosine * (TIERS // 2)).to(torch.int32) + TIERS // 2
        times = (bins == ids[:, None, :]).type(torch.float32).sum(dim=2).numpy()
        folded = times[:, 1:-1].copy()
        folded[:, 0] += times[:, 0]
        folded[:, -1] += times[:, -1]
        return folded

    cells: dict[str, Cell] = {"torch matmul + bincount": bincount}
    if world.shape.pairs * max(world.shape.dim, TIERS + 2) <= _MUSE_VALUES:
        cells["MUSE, released formulation (torch)"] = muse
    return cells


def peer_cells(world: World) -> dict[str, Cell]:
    """Every peer."""
    return {
        "NumKong int8 product + bincount": numkong_cell(world),
        "numpy matmul + bincount": numpy_cell(world),
        **torch_cells(world),
    }
