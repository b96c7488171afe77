"""What a ranking model reads of a few requests at once.

G groups, each of one request; K candidates a group; L behaviours; F scalars; N tiers; A further labels. Padding is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of G groups. A history is given once a group, however many candidates it has.

    Attributes:
        item: (G, K) int64, 1 + row of the catalog; 0 is padding.
        vector: (G, K) int64, rows of the vector table; 0 is no vector.
        valid: (G, K) bool, candidates that are there.
        history: (G, L) int64, 1 + row of the catalog, newest last; 0 is padding.
        history_vector: (G, L) int64 rows of the vector table; 0 is no vector.
        present: (G, L) bool, behaviours that are there; padding is in front.
        scalars: (G, K, F) float32, as they are (models standardise).
        counts: (G, K, N + 1) float32, tier counts and `missing` in the last column, as they are; N may be 0.
        label: (G, K) float32.
        labels: (G, K, A) float32, further labels of multi-task models, NaN where not known; A may be 0.
    """

    item: Tensor
    vector: Tensor
    valid: Tensor
    history: Tensor
    history_vector: Tensor
    present: Tensor
    scalars: Tensor
    counts: Tensor
    label: Tensor
    labels: Tensor
