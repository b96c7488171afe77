"""Implementations of the SimTier count, and the choice among them (shapes as in `moontide.simtier`).

A dot product of int8 codes is an exact integer. A float32 BLAS product of the codes is exact too while its partial sums stay
below 2**24, which 127 * 127 * D does up to D = 1,040; above, float64 holds the integer and it is rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

FLOAT32_EXACT_DIM: Final = 1_040
_BLOCK_PAIRS: Final = 1 << 18

Kernel = Callable[
    [NDArray[np.int8], NDArray[np.float32], NDArray[np.int8], NDArray[np.float32], int, NDArray[np.bool_]],
    NDArray[np.int32],
]


def exact_dots(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.float32]:
    """(C, L) float32 of the integer dots of (C, D) and (L, D) codes, each rounded at most once."""
    wide = np.dtype(np.float32 if left.shape[1] <= FLOAT32_EXACT_DIM else np.float64)
    dots: NDArray[np.float32] = np.matmul(left.astype(wide), right.astype(wide).T).astype(np.float32, copy=False)
    return dots


def pair_tiers(
    left: NDArray[np.int8],
    left_inv: NDArray[np.float32],
    right: NDArray[np.int8],
    right_inv: NDArray[np.float32],
    tiers: int,
) -> NDArray[np.int32]:
    """(C, L) int32: the tier of every pair, by the definition; pairs of absent rows hold a number without meaning."""
    cos = exact_dots(left, right)
    cos *= left_inv[:, None]
    cos *= right_inv[None, :]
    cos *= np.float32(tiers // 2)
    np.ceil(cos, out=cos)
    cos += np.float32(tiers // 2 - 1)
    np.clip(cos, 0, tiers - 1, out=cos)
    return cos.astype(np.int32)


def count_with_numpy(
    left: NDArray[np.int8],
    left_inv: NDArray[np.float32],
    right: NDArray[np.int8],
    right_inv: NDArray[np.float32],
    tiers: int,
    usable: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """(C, N) int32 by BLAS and one `bincount` per block of candidates; unusable pairs go to a spare bin that is cut off."""
    rows, length = len(left), len(right)
    counts = np.zeros((rows, tiers), np.int32)
    if not length:
        return counts
    step = max(1, _BLOCK_PAIRS // length)
    for start in range(0, rows, step):
        block = slice(start, min(start + step, rows))
        tier = pair_tiers(left[block], left_inv[block], right, right_inv, tiers)
        tier[~usable[block]] = tiers
        tier += np.arange(tier.shape[0], dtype=np.int32)[:, None] * (tiers + 1)
        flat = np.bincount(tier.ravel(), minlength=tier.shape[0] * (tiers + 1))
        counts[block] = flat.reshape(tier.shape[0], tiers + 1)[:, :tiers]
    return counts


KERNEL: Kernel = count_with_numpy
