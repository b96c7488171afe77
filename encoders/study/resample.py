"""Bootstrap over seeds and users of figures that are weighted means of users' values, such as GAUC."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def drawn_means(impressions: NDArray[np.int64], values: Floats, *, seed: int, draws: int) -> Floats:
    """(draws, K) weighted means of K quantities; users and seeds are drawn with replacement, the same ones for all K.

    Args:
        impressions: (U,) weights of the users.
        values: (K, S, U) of each quantity, seed and user, e.g. AUC differences; row s belongs to one seed in all K.
    """
    kinds, seeds, users = values.shape
    generator = np.random.default_rng(seed)
    found = np.empty((draws, kinds))
    for at in range(draws):
        weights = np.bincount(generator.integers(users, size=users), minlength=users) * impressions
        chosen = np.bincount(generator.integers(seeds, size=seeds), minlength=seeds)
        found[at] = ((values @ weights) @ chosen) / (weights.sum() * seeds)
    return found
