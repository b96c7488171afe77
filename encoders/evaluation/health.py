"""Whether vectors use their space: norms, absent rows, duplicates, anisotropy, saturation. N items, D dims."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import CODE_MAX, Embeddings

PAIRS: Final = 20_000
SEED: Final = 7


def health(vectors: Embeddings) -> dict[str, float]:
    """Figures of N rows; an empty batch, or one without a vector, gives `count` and `absent` alone.

    `count`: N. `absent`: share of rows without a vector. `norm_mean`, `norm_spread`: of the float vectors; spread is
    the standard deviation over the mean. `duplicates`: share of vectors whose codes equal an earlier one's.
    `mean_cosine`: of random pairs, 0 for directions without a preference. `top_eigenvalue`: largest share of the second
    moment of the unit vectors, 1/D at best. `effective_rank`: exp of the entropy of its eigenvalues (Roy and Vetterli 2007),
    in 1..D. `saturated`: share of codes at the end of the scale. `zero_codes`: share of codes that are 0.
    `dead_dims`: share of dims that are one value in every row.
    """
    present = vectors.take(vectors.present)
    found = {"count": float(len(vectors)), "absent": 1.0 - len(present) / len(vectors) if len(vectors) else 0.0}
    if not len(present):
        return found
    norms = np.linalg.norm(present.to_float().astype(np.float64), axis=1)
    unit = present.codes.astype(np.float32) * present.inv_norm[:, None]
    shares = eigenvalue_shares(unit)
    positive = shares[shares > 0]
    return found | {
        "norm_mean": float(norms.mean()),
        "norm_spread": float(norms.std() / norms.mean()),
        "duplicates": 1.0 - len(np.unique(present.codes, axis=0)) / len(present),
        "mean_cosine": _mean_cosine(unit),
        "top_eigenvalue": float(shares.max()),
        "effective_rank": float(np.exp(-(positive * np.log(positive)).sum())),
        "saturated": float((np.abs(present.codes.astype(np.int16)) == CODE_MAX).mean()),
        "zero_codes": float((present.codes == 0).mean()),
        "dead_dims": float((present.codes == present.codes[:1]).all(axis=0).mean()),
    }


def eigenvalue_shares(unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """(D,) of the uncentred second moment, which a shared direction dominates; they sum to 1."""
    wide = unit.astype(np.float64)
    values = np.clip(np.linalg.eigvalsh(wide.T @ wide / len(wide)), 0.0, None)
    return values / values.sum()


def _mean_cosine(unit: NDArray[np.float32]) -> float:
    """Of random pairs of different rows; 1 for a single row."""
    return float(random_cosines(unit).mean()) if len(unit) > 1 else 1.0


def random_cosines(unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """(`PAIRS`,) of random pairs of different rows of (N, D) unit rows; none where N < 2."""
    if len(unit) < 2:
        return np.zeros(0)
    draw = np.random.default_rng(SEED)
    first = draw.integers(len(unit), size=PAIRS)
    second = (first + draw.integers(1, len(unit), size=PAIRS)) % len(unit)
    return np.einsum("nd,nd->n", unit[first], unit[second], dtype=np.float64)
