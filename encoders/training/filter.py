"""The dynamic sample filter of MOON2.0 (arXiv 2511.12449): pairs that the model itself finds unlikely are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What the filter decided on B pairs.

    Attributes:
        mask: (B,) bool, the pairs to learn from.
        phi: (B,) float, 0..1; 1 for a pair that has no negative to be judged by.
        share: of the judged pairs that are kept, 0..1, for the log; 1 where none was judged.
        forced: of the judged pairs, the share kept although below the threshold: high while the model knows little.
    """

    mask: Tensor
    phi: Tensor
    share: float
    forced: float


def margin_at(done: float, first: float) -> float:
    """The margin after a share of training, 0..1: from `first` along a cosine to 0, flat at both ends.

    The paper says that it decays, not how; this is ours.
    """
    return first * 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


@torch.no_grad()
def keep_pairs(
    query: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float,
    sharpness: float,
    threshold: float = 0.6,
    valid: Tensor | None = None,
    least: float = 0.25,
) -> Kept:
    """Pairs whose phi = sigmoid(kappa * (q.p - q.n - margin)) is at least tau.

    The direction is our reading: phi is high where the positive is clearly nearer than a negative, so it is trust in the pair,
    and noise (a wrong or accidental purchase) is what falls below tau. Since the margin falls during training, the filter begins
    with the clearest pairs and lets harder ones in as it goes on.

    Args:
        query, positive, negative: (B, D) unit rows; the negative is a hard one, or the nearest of the batch (`nearest_other`).
        margin: m of now, in cosine; see `margin_at`.
        sharpness: kappa. threshold: tau.
        valid: (B,) pairs that have a negative; the others are kept unjudged. None: all.
        least: share of the judged pairs, rounded up, kept at any rate, highest phi first and the earlier of two equals: an
            untrained model trusts no pair, and would never learn from one.

    A phi that is not a number counts as 0.
    """
    judged = torch.ones(len(query), dtype=torch.bool, device=query.device) if valid is None else valid.bool()
    gap = (query * positive).sum(dim=1) - (query * negative).sum(dim=1)
    trust = torch.nan_to_num(torch.sigmoid(sharpness * (gap - margin)), nan=0.0)
    phi = torch.where(judged, trust, torch.ones_like(trust))
    mask = ~judged | (phi >= threshold)
    count = int(judged.sum())
    if not count:
        return Kept(mask, phi, 1.0, 0.0)
    trusted = int((mask & judged).sum())
    rows = judged.nonzero()[:, 0]
    best = rows[torch.argsort(phi[rows], descending=True, stable=True)]
    kept = max(trusted, min(math.ceil(least * count), count))
    mask[best[:kept]] = True
    return Kept(mask, phi, kept / count, (kept - trusted) / count)


@torch.no_grad()
def nearest_other(query: Tensor, positive: Tensor, same: Tensor, barred: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The hardest negative in a batch: for each query, the positive of another id that is nearest to it.

    Args:
        query, positive: (B, D) unit rows.
        same: (B,) ids of the positives.
        barred: (B, B) positives that are no rivals of a query, e.g. the query itself; None: none.

    Returns:
        (B,) int64 rows of `positive`, and (B,) bool whether there is one; the row itself where there is none.
    """
    twins = same[:, None] == same[None, :]
    twins = twins if barred is None else twins | barred
    there = ~twins.all(dim=1)
    if not len(query):
        return torch.zeros(0, dtype=torch.int64, device=query.device), there
    rows = (query @ positive.T).masked_fill(twins, float("-inf")).argmax(dim=1)
    return torch.where(there, rows, torch.arange(len(query), device=query.device)), there
