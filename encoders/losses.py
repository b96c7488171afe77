"""Contrastive losses on unit vectors. B rows, D dims; temperatures divide cosines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoders.towers import unit


def info_nce(a: Tensor, b: Tensor, *, temperature: float, same: Tensor | None = None, log_q: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: row k of `a` belongs to row k of `b`, every other row is a negative.

    Args:
        a, b: (B, D) unit rows.
        same: (B,) ids; rows of one id are not negatives of each other.
        log_q: (B,) log probability of drawing each row; taken off its logit, or popular items would be pushed away.
    """
    logits = a @ b.T / temperature
    if same is not None:
        twins = (same[:, None] == same[None, :]) & ~torch.eye(len(a), dtype=torch.bool)
        logits = logits.masked_fill(twins, float("-inf"))
    forward, backward = (logits, logits.T) if log_q is None else (logits - log_q, logits.T - log_q)
    target = torch.arange(len(a))
    return 0.5 * (functional.cross_entropy(forward, target) + functional.cross_entropy(backward, target))


def supervised(x: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss: every other row of the same label is a positive; rows without one count nothing."""
    itself = torch.eye(len(x), dtype=torch.bool)
    logits = (x @ x.T / temperature).masked_fill(itself, float("-inf"))
    log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    counts = positive.sum(dim=1)
    sums = torch.where(positive, log_share, torch.zeros(())).sum(dim=1)
    return -(sums[counts > 0] / counts[counts > 0]).mean()


def prefixes(x: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """Unit vectors of the first d components, for each d: the Matryoshka prefixes a loss is averaged over."""
    return [x if dim == x.shape[1] else unit(x[:, :dim]) for dim in dims]
