"""The SimTier count over many requests at once (definition and words as in `moontide.simtier`).

A request is C candidates against L behaviours; D dims, N tiers. Requests of like size are padded to one size and counted
together, one BLAS product and one `bincount` per block, so that small requests cost little Python and large ones little memory.

A dot product of int8 codes is an exact integer. A float32 BLAS product of the codes is exact too while its partial sums stay
below 2**24, which 127 * 127 * D does up to D = 1,040; above, float64 holds the integer and it is rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FLOAT32_EXACT_DIM: Final = 1_040
_BLOCK_PAIRS: Final = 1 << 18
_BLOCK_VALUES: Final = 1 << 20
_TILE: Final = 1_024
_SPAN: Final = 1 << 16

Ints = NDArray[np.int64]
Counted = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Candidates, or behaviours, of U requests: pointers into a table of V vectors.

    Attributes:
        codes: (V, D) int8.
        inv_norm: (V,) float32.
        present: (V,) bool; a row that is not present is no vector.
        rows: (R,) int64 in -1..V - 1, the requests end to end; -1: no vector.
        offsets: (U + 1,) int64, rising from 0 to R.
        keys: (R,) int64, what `drop_same_id` compares; None: nothing is dropped.
    """

    codes: NDArray[np.int8]
    inv_norm: NDArray[np.float32]
    present: NDArray[np.bool_]
    rows: Ints
    offsets: Ints
    keys: Ints | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """G parts of requests, each within one request: first position and length on both sides, (G,) int64."""

    left: Ints
    left_size: Ints
    right: Ints
    right_size: Ints

    def take(self, which: Ints) -> _Tiles:
        return _Tiles(self.left[which], self.left_size[which], self.right[which], self.right_size[which])


def exact_dots(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.float32]:
    """(..., C, L) float32 of the integer dots of (..., C, D) and (..., L, D) codes, each rounded at most once."""
    wide = np.dtype(np.float32 if left.shape[-1] <= FLOAT32_EXACT_DIM else np.float64)
    product = np.matmul(left.astype(wide), right.astype(wide).swapaxes(-1, -2))
    dots: NDArray[np.float32] = product.astype(np.float32, copy=False)
    return dots


def pair_tiers(
    left: NDArray[np.int8],
    left_inv: NDArray[np.float32],
    right: NDArray[np.int8],
    right_inv: NDArray[np.float32],
    tiers: int,
) -> NDArray[np.int32]:
    """(..., C, L) int32: the tier of every pair, by the definition. An inverse norm of 0 gives cosine 0, tier N/2 - 1."""
    cos = exact_dots(left, right)
    cos *= left_inv[..., :, None]
    cos *= right_inv[..., None, :]
    cos *= np.float32(tiers // 2)
    np.ceil(cos, out=cos)
    cos += np.float32(tiers // 2 - 1)
    np.clip(cos, 0, tiers - 1, out=cos)
    return cos.astype(np.int32)


def count_with_numpy(left: Side, right: Side, tiers: int, threads: int) -> Counted:
    """Counts (R, N) int32 and missing (R,) int32 of the R candidates of `left`, each against its request in `right`.

    Beyond the result and some arrays of a few numbers per request, each thread holds one block: about a million floats a side.
    """
    counts = np.zeros((len(left.rows), tiers), np.int32)
    missing = np.zeros(len(left.rows), np.int32)
    requests = len(left.offsets) - 1
    step = max(1, min(_SPAN, -(-requests // max(threads, 1))))

    def fill(start: int) -> None:
        for tiles in _blocks(left, right, slice(start, start + step + 1), tiers):
            _add(left, right, tiles, counts, missing)

    if threads < 2 or requests < 2:
        for start in range(0, requests, step):
            fill(start)
        return counts, missing
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, requests, step)))
    return counts, missing


def _blocks(left: Side, right: Side, span: slice, tiers: int) -> Iterator[_Tiles]:
    """Tiles of like size of the requests in `span`, as many as fit a block. No candidate is twice in one block."""
    dim = left.codes.shape[1]
    tiles, part = _tiles(left.offsets[span], right.offsets[span], tiers)
    alike = np.stack([part, _size_class(tiles.right_size), _size_class(tiles.left_size)])
    order = np.lexsort((tiles.left_size, tiles.right_size, *alike[::-1]))
    changed = (np.diff(alike[:, order], axis=1) != 0).any(axis=0)
    for same in np.split(order, np.flatnonzero(changed) + 1):
        if not len(same):
            continue
        width, length = int(tiles.left_size[same].max()), int(tiles.right_size[same].max())
        fit = min(_BLOCK_PAIRS // (width * max(length, tiers)), _BLOCK_VALUES // ((width + length) * dim))
        for at in range(0, len(same), max(fit, 1)):
            yield tiles.take(same[at : at + max(fit, 1)])


def _tiles(left: Ints, right: Ints, tiers: int) -> tuple[_Tiles, Ints]:
    """Cut requests that are larger than a tile; the second array is the number of the tile's part of the history."""
    long = min(_TILE, _BLOCK_PAIRS)
    wide = max(1, _BLOCK_PAIRS // max(long, tiers))
    width, length = np.diff(left), np.diff(right)
    across = -(-width // wide)
    number = across * -(-length // long)
    request = np.repeat(np.arange(len(width)), number)
    nth = np.arange(len(request)) - np.repeat(np.cumsum(number) - number, number)
    part, column = np.divmod(nth, across[request])
    tiles = _Tiles(
        left[request] + column * wide,
        np.minimum(width[request] - column * wide, wide),
        right[request] + part * long,
        np.minimum(length[request] - part * long, long),
    )
    return tiles, part


def _size_class(sizes: Ints) -> Ints:
    classes: Ints = np.ceil(2 * np.log2(sizes)).astype(np.int64)
    return classes


def _add(left: Side, right: Side, tiles: _Tiles, counts: NDArray[np.int32], missing: NDArray[np.int32]) -> None:
    """Add the counts of one block.

    Padding and behaviours without a vector have inverse norm 0, so they are all counted in tier N/2 - 1 and taken out again:
    cheaper than a mask over the pairs. So are the pairs that `drop_same_id` drops, which are few.
    """
    tiers = counts.shape[1]
    ours, inside, left_codes, left_inv = _gather(left, tiles.left, tiles.left_size)
    theirs, known, right_codes, right_inv = _gather(right, tiles.right, tiles.right_size)
    groups, width, length = *ours.shape, theirs.shape[1]
    tier = pair_tiers(left_codes, left_inv, right_codes, right_inv, tiers)
    tier += (np.arange(groups * width, dtype=np.int32) * tiers).reshape(groups, width, 1)
    flat = tier.ravel()
    found = np.bincount(flat, minlength=groups * width * tiers).reshape(-1, tiers)
    vectorless = right_inv == 0
    found[:, tiers // 2 - 1] -= np.repeat(vectorless.sum(axis=1), width)
    sizes = np.repeat(tiles.right_size, width)
    if left.keys is not None and right.keys is not None:
        same = np.flatnonzero(left.keys[ours][:, :, None] == right.keys[theirs][:, None, :])
        row, column = np.divmod(same, length)
        real = known[row // width, column]
        same, row, column = same[real], row[real], column[real]
        sizes -= np.bincount(row, minlength=len(sizes))
        counted = ~vectorless[row // width, column]
        np.subtract.at(found.ravel(), flat[same[counted]], 1)
    found[left_inv.ravel() == 0] = 0
    keep = inside.ravel()
    rows = ours.ravel()[keep]
    counts[rows] += found[keep].astype(np.int32)
    missing[rows] += (sizes - found.sum(axis=1))[keep].astype(np.int32)


def _gather(side: Side, first: Ints, size: Ints) -> tuple[Ints, NDArray[np.bool_], NDArray[np.int8], NDArray[np.float32]]:
    """Positions (G, W) padded to the largest size, which of them are real, their codes (G, W, D) and inverse norms."""
    step = np.arange(int(size.max()))
    inside = step < size[:, None]
    at = np.where(inside, first[:, None] + step, first[:, None])
    rows = side.rows[at]
    inv_norm = side.inv_norm[rows]
    inv_norm[~inside | (rows < 0) | ~side.present[rows]] = 0
    return at, inside, np.take(side.codes, rows, axis=0, mode="clip"), inv_norm


#: Candidates, behaviours, tiers, threads -> counts (R, N) int32 and missing (R,) int32.
Kernel = Callable[[Side, Side, int, int], Counted]
