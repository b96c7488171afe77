"""Retrieval measures against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.metrics import cosines, mean_average_precision, precision_at, recall_at
from moontide import Embeddings, EmbeddingSpace, SpaceMismatch

pytestmark = pytest.mark.unit

SCORES = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.3, 0.2]], np.float32)
RELEVANT = np.array([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool)


def test_by_hand() -> None:
    assert recall_at(SCORES, RELEVANT, 1) == 0.5
    assert recall_at(SCORES, RELEVANT, 2) == 1.0
    assert precision_at(SCORES, RELEVANT, 2) == 0.5
    assert mean_average_precision(SCORES, RELEVANT) == pytest.approx(((1 / 2 + 2 / 4) / 2 + 1.0) / 2)


def test_cosines_are_those_of_the_codes() -> None:
    space = EmbeddingSpace("moon", 1, 8)
    random = np.random.default_rng(0)
    a, b = (Embeddings.from_float(space, random.normal(size=(rows, 8))) for rows in (3, 5))
    wide = a.codes.astype(float) @ b.codes.astype(float).T
    norms = np.outer(np.linalg.norm(a.codes.astype(float), axis=1), np.linalg.norm(b.codes.astype(float), axis=1))
    assert np.allclose(cosines(a, b), wide / norms, atol=1e-6)
    with pytest.raises(SpaceMismatch):
        cosines(a, Embeddings.absent(EmbeddingSpace("moon", 2, 8), 1))
