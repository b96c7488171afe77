"""Frozen vectors brought to the width of a model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from moontide.errors import Misconfigured
from ranking.batch import Batch
from ranking.models.base import Parts, VectorTable


def table_of(parts: Parts) -> VectorTable:
    """The vectors, or `Misconfigured` where the model was built over ids alone."""
    if parts.table is None:
        raise Misconfigured("model: expected the vectors of a space, got none; build it with a table, or without this content")
    return parts.table


def with_vectors(batch: Batch) -> Batch:
    """The batch whose behaviours are only those that have a vector."""
    return replace(batch, present=batch.present & (batch.history_vector > 0))


class Projection(nn.Module):
    """A learned linear map of a table's rows; a row that is not there (0) gives zeros.

    Unit vectors of D dimensions are scaled by sqrt(D): what a default layer makes of them then has a spread near 1, as every
    other input of a model.
    """

    def __init__(self, table: VectorTable, width: int) -> None:
        """Weights come from torch's global generator: seed it first."""
        super().__init__()
        self.table = table
        self.linear = nn.Linear(table.dim, width)
        self.scale = table.dim**0.5

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(G, K, W) of the candidates and (G, L, W) of the behaviours.

        The whole table is projected at once where it has fewer rows than the batch looks up. An exported graph always projects
        what it looks up: its sizes are not known.
        """
        lookups = batch.vector.numel() + batch.history_vector.numel()
        if not torch.compiler.is_exporting() and self.table.rows.shape[0] < lookups:
            rows = self._project(self.table.rows)
            target, behaviours = (nn.functional.embedding(at, rows) for at in (batch.vector, batch.history_vector))
        else:
            target, behaviours = (self._project(self.table(at)) for at in (batch.vector, batch.history_vector))
        return target * (batch.vector > 0)[:, :, None], behaviours * (batch.history_vector > 0)[:, :, None]

    def _project(self, rows: Tensor) -> Tensor:
        projected: Tensor = self.linear(rows * self.scale)
        return projected
