"""What is bought together, learnt from content alone: a linear map from a title's terms to factors of co-purchase.

N items, V buckets of the text table, F factors. Factors are the leading directions of the items' positive pointwise mutual
information within baskets, or within all that one customer bought (Levy and Goldberg 2014: what skip-gram with negative samples
factorises). They are never a vector's content: the map is fitted by ridge regression from terms, so an item that nobody has
bought yet gets what its words promise, and no item gets a place of its own. That is what keeps behaviour from turning a content
vector into a second id embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.tokenizer import Tokens
from encoders.transactions import Baskets
from moontide.errors import Misconfigured

#: Ridge penalties that are tried; the one whose map is nearest to the factors of items it was not fitted on is taken.
PENALTIES: Final = (0.3, 1.0, 3.0, 10.0)
#: Items that are fitted on, the most bought ones: the fit is of this order squared in memory.
MOST: Final = 10_000
#: Items bought in fewer baskets say little of what they are bought with.
LEAST_BASKETS: Final = 5
_HELD_OUT: Final = 0.1
_ROUNDS: Final = 4
_SPARE: Final = 16
#: (N, N) tables of `purchase_factors`, and (N, V) tables of `term_directions`, that are held at one time.
_TABLES: Final = 5
_BAGS: Final = 2

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fit:
    """The map (V, F) float32, its penalty, the items it was fitted on, and its mean cosine with factors of items held out."""

    table: Floats
    penalty: float
    items: int
    held_out_cosine: float


def bytes_needed(items: int, buckets: int) -> int:
    """Memory that the largest of these steps takes for N items and V buckets: of the order N squared for many items."""
    return np.dtype(np.float32).itemsize * items * max(_TABLES * items, _BAGS * buckets)


def purchase_factors(baskets: Baskets, items: int, width: int, *, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """(N, F) unit rows, zero for an item never bought with another, and (N,) in how many baskets each is.

    Args:
        baskets: what was bought together, by one order or by one customer.

    One counts one in all, however large: wholesalers' hold hundreds of items that have nothing in common.
    """
    counts = np.bincount(baskets.items, minlength=items)
    together = torch.zeros((items, items), dtype=torch.float32)
    for start, stop in zip(baskets.offsets[:-1].tolist(), baskets.offsets[1:].tolist(), strict=True):
        rows = torch.from_numpy(baskets.items[start:stop].astype(np.int64))
        together[rows[:, None], rows[None, :]] += 1.0 / max(len(rows), 1)
    together.fill_diagonal_(0.0)
    each, total = together.sum(dim=1), together.sum()
    expected = each[:, None] * each[None, :] / total.clamp(min=1e-12)
    information = torch.where(together > 0, torch.log(together.clamp(min=1e-12) / expected.clamp(min=1e-12)), 0.0).clamp(min=0.0)
    torch.manual_seed(seed)
    left, size, _ = torch.svd_lowrank(information, q=min(width + _SPARE, items), niter=_ROUNDS)
    factors = (left * size.sqrt())[:, :width]
    lengths = factors.norm(dim=1, keepdim=True)
    unit = torch.where(lengths > 1e-6, factors / lengths.clamp(min=1e-6), 0.0)
    return unit.numpy().astype(np.float32), counts.astype(np.int64)


def fit_map(tokens: Tokens, factors: Floats, counts: NDArray[np.int64], buckets: int, *, seed: int) -> Fit:
    """Ridge regression from unit bags of terms to the factors less their mean.

    Args:
        tokens: of N titles, with weights.
        factors, counts: as `purchase_factors` gives them.
        buckets: V.
        seed: draws the items held out while the penalty is chosen; the map is then fitted on all.

    Raises:
        Misconfigured: fewer than 100 items bought with others in `LEAST_BASKETS` baskets.
    """
    known = np.flatnonzero((counts >= LEAST_BASKETS) & (np.abs(factors).sum(axis=1) > 0))
    known = np.sort(known[np.argsort(-counts[known], kind="stable")[:MOST]])
    if len(known) < 100:
        raise Misconfigured(
            f"co-purchases: expected 100 items or more in {LEAST_BASKETS} baskets, got {len(known)}; give a longer log"
        )
    bags, weight = _bags(tokens, known, buckets), torch.log1p(torch.from_numpy(counts[known].astype(np.float32)))
    target = torch.from_numpy(factors[known])
    target = target - (target * weight[:, None]).sum(dim=0) / weight.sum()
    order = np.random.default_rng(seed).permutation(len(known))
    held, fitted = (torch.from_numpy(part) for part in np.split(order, [int(_HELD_OUT * len(order))]))
    found = {}
    for penalty in PENALTIES:
        table = _ridge(bags[fitted], target[fitted], weight[fitted], penalty)
        cosines = torch.nn.functional.cosine_similarity(bags[held] @ table, target[held])
        found[penalty] = float(cosines.mean())
    best = max(found, key=lambda penalty: found[penalty])
    return Fit(_ridge(bags, target, weight, best).numpy(), best, len(known), found[best])


def term_directions(tokens: Tokens, buckets: int, width: int, *, seed: int) -> Floats:
    """(V, `width`) leading directions of the unit bags of N titles (latent semantic analysis, Deerwester et al. 1990).

    Directions weigh by the root of their singular value, on average 1. Plain cosines of bags count what a random projection
    counts; words that come in the same titles have nearby rows here. A bucket that no title has keeps a random row, or a title of
    new words would have no vector.

    Raises:
        Misconfigured: not more titles than `width`.
    """
    rows = np.flatnonzero(tokens.lengths > 0)
    if len(rows) <= width:
        raise Misconfigured(f"titles: expected more than {width}, got {len(rows)}; give a larger catalog")
    bags = _bags(tokens, rows, buckets)
    torch.manual_seed(seed)
    _, sizes, right = torch.svd_lowrank(bags, q=min(width + _SPARE, len(rows)), niter=_ROUNDS)
    weights = sizes[:width].sqrt()
    table = right[:, :width] * (weights / weights.mean())
    seen = bags.sum(dim=0) > 0
    length = table[seen].norm(dim=1).square().mean().sqrt()
    fresh = torch.nn.functional.normalize(torch.randn(buckets, width), dim=1) * length
    return torch.where(seen[:, None], table, fresh).numpy().astype(np.float32)


def _ridge(bags: Tensor, target: Tensor, weight: Tensor, penalty: float) -> Tensor:
    """(V, F) by the dual form: there are fewer items than buckets."""
    root = weight.sqrt()[:, None]
    scaled = bags * root
    gram = scaled @ scaled.T + penalty * torch.eye(len(bags))
    solved: Tensor = scaled.T @ torch.linalg.solve(gram, target * root)
    return solved


def _bags(tokens: Tokens, rows: NDArray[np.int64], buckets: int) -> Tensor:
    """(rows, V) float32 unit rows."""
    ids, _, weights = tokens.padded_weighted(rows)
    bags = torch.zeros((len(rows), buckets))
    bags.scatter_add_(1, torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(weights))
    return bags / bags.norm(dim=1, keepdim=True).clamp(min=1e-9)
