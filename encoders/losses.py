"""Contrastive losses on unit vectors, and the losses of a mixture of experts. B rows, D dims, K rows of a queue.

Every loss is a scalar (0-dim) tensor of finite inputs' dtype: exactly 0, with a gradient of zeros, where there is nothing to
learn from (no rows, no positives, no negatives), and never NaN for finite inputs. Temperatures divide cosines. Ids are
compared for equality; a label below 0 is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoders.towers import unit
from moontide.errors import Misconfigured

_NEVER = float("-inf")


def info_nce(a: Tensor, b: Tensor, *, temperature: float, same: Tensor | None = None, log_q: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: row k of `a` belongs to row k of `b`, every other row is a negative.

    Args:
        a, b: (B, D) unit rows.
        same: (B,) ids; rows of one id are not negatives of each other.
        log_q: (B,) log probability of drawing each row; taken off its logit, or popular items would be pushed away.
    """
    none = b.new_zeros((0, b.shape[1]))
    forward = info_nce_queue(a, b, none, temperature=temperature, same=same, log_q=log_q)
    return 0.5 * (forward + info_nce_queue(b, a, none, temperature=temperature, same=same, log_q=log_q))


def info_nce_queue(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    *,
    temperature: float,
    same: Tensor | None = None,
    queue_ids: Tensor | None = None,
    log_q: Tensor | None = None,
    queue_log_q: Tensor | None = None,
    allowed: Tensor | None = None,
    barred: Tensor | None = None,
) -> Tensor:
    """InfoNCE from queries to keys: row n of `q` belongs to row n of `k`; the other keys and the queue are negatives (SCL, MoCo).

    Args:
        q, k: (B, D) unit rows; a momentum encoder's keys carry no gradient.
        queue: (K, D) unit rows; K may be 0.
        same, queue_ids: (B,) and (K,) ids; a row is no negative of a query of its own id.
        log_q, queue_log_q: (B,) and (K,) log probabilities of drawing each row, taken off its logit.
        allowed, barred: (B, K) queue rows that are negatives of a query at all, and (B, B) other keys that are not; None: all.

    Raises:
        Misconfigured: the queue has rows, and ids or probabilities are given for one side only.
    """
    _require_both(len(queue), ("same", same), ("queue_ids", queue_ids))
    _require_both(len(queue), ("log_q", log_q), ("queue_log_q", queue_log_q))
    if not len(q):
        return _nothing(q, k)
    batch, extra = q @ k.T / temperature, q @ queue.T / temperature
    if log_q is not None:
        batch = batch - log_q
        extra = extra if queue_log_q is None else extra - queue_log_q
    own, twins, others = _relations(q, queue, same, queue_ids)
    batch = batch.masked_fill((twins if barred is None else twins | barred) & ~own, _NEVER)
    extra = extra.masked_fill(others if allowed is None else others | ~allowed, _NEVER)
    target = torch.arange(len(q), device=q.device)
    return functional.cross_entropy(torch.cat([batch, extra], dim=1), target)


def circle(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    *,
    margin: float = 0.25,
    scale: float = 32.0,
    same: Tensor | None = None,
    queue_ids: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Circle loss (Sun et al., arXiv 2002.10857), the option of MOON Embedding; mean over queries with a negative.

    Positives of a query are its own key and every key or queue row of its id; the rest, as far as `allowed`, are negatives. A
    cosine far from where it should be (1 for positives, 0 for negatives) weighs more; those weights carry no gradient.

    Args:
        margin: m; a positive is good at 1 - m, a negative at m.
        scale: gamma.
        q, k, queue, same, queue_ids, allowed: as `info_nce_queue`.
    """
    _require_both(len(queue), ("same", same), ("queue_ids", queue_ids))
    own, twins, others = _relations(q, queue, same, queue_ids)
    positive = torch.cat([twins | own, others], dim=1)
    permitted = torch.ones_like(others) if allowed is None else allowed
    negative = torch.cat([~(twins | own), ~others & permitted], dim=1)
    useful = negative.any(dim=1)
    if not bool(useful.any()):
        return _nothing(q, k)
    positive, negative = positive[useful], negative[useful]
    cosine = q[useful] @ torch.cat([k, queue]).T
    pull = (1.0 + margin - cosine.detach()).clamp(min=0.0) * (cosine - (1.0 - margin))
    push = (cosine.detach() + margin).clamp(min=0.0) * (cosine - margin)
    pulled = torch.logsumexp((-scale * pull).masked_fill(~positive, _NEVER), dim=1)
    pushed = torch.logsumexp((scale * push).masked_fill(~negative, _NEVER), dim=1)
    # Not softplus, which is rounded to its argument from 20 on.
    return torch.logaddexp(pulled + pushed, torch.zeros_like(pulled)).mean()


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Hinge on cosines, max(0, margin - a.p + a.n): SCL's hard negatives (clicked and not bought, same category).

    Args:
        anchor, positive, negative: (B, D) unit rows.
        valid: (B,) rows that have a negative; the mean is over them. None: all.
    """
    if valid is not None:
        anchor, positive, negative = anchor[valid], positive[valid], negative[valid]
    if not len(anchor):
        return _nothing(anchor, positive, negative)
    return torch.relu(margin - (anchor * positive).sum(dim=1) + (anchor * negative).sum(dim=1)).mean()


def supervised(x: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss: every other row of the same label is a positive; rows without one count nothing.

    Args:
        x: (B, D) unit rows.
        labels: (B,); rows of an unknown one (< 0) are left out altogether.
    """
    return supervised_queue(x, labels, x.new_zeros((0, x.shape[1])), labels[:0], temperature=temperature)


def supervised_queue(x: Tensor, labels: Tensor, queue: Tensor, queue_labels: Tensor, *, temperature: float) -> Tensor:
    """`supervised`, with the rows of a queue as further positives and negatives.

    Args: (B, D) unit rows, (B,) labels, (K, D) and (K,); the mean is over the rows of `x` that have a positive.
    """
    known, queue_known = labels >= 0, queue_labels >= 0
    x, labels = x[known], labels[known]
    every, names = torch.cat([x, queue[queue_known]]), torch.cat([labels, queue_labels[queue_known]])
    itself = torch.eye(len(x), len(every), dtype=torch.bool, device=x.device)
    positive = (labels[:, None] == names[None, :]) & ~itself
    counts = positive.sum(dim=1)
    # Only these rows: one without any other row has no finite logit, and its gradient would be NaN.
    useful = counts > 0
    if not bool(useful.any()):
        return _nothing(x)
    logits = (x[useful] @ every.T / temperature).masked_fill(itself[useful], _NEVER)
    log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    sums = log_share.masked_fill(~positive[useful], 0.0).sum(dim=1)
    return -(sums / counts[useful]).mean()


def inter_alignment(
    queries: Mapping[str, tuple[Tensor, Tensor]],
    items: Tensor,
    *,
    temperature: float,
    shares: Mapping[str, float] | None = None,
    same: Tensor | None = None,
) -> Tensor:
    """MOON2.0's L_inter: a query in each modality form finds the mixed vector of its item.

    Args:
        queries: form (``t``, ``i``, ``mm``) to (B, D) unit rows and a (B,) mask of those that exist.
        items: (B, D) unit rows of the items; those whose query lacks a form are still negatives of the others.
        shares: weight of each form, 1 if unnamed; over the forms that have rows they are scaled to a sum of 1.
        same: (B,) ids of the items.
    """
    weight = {form: (shares or {}).get(form, 1.0) for form, (_, there) in queries.items() if bool(there.any())}
    total = sum(weight.values())
    if total <= 0.0:
        return _nothing(items)
    parts = []
    for form, part in weight.items():
        query, there = queries[form]
        ids, rest = (None, None) if same is None else (same[there], same[~there])
        loss = info_nce_queue(query[there], items[there], items[~there], temperature=temperature, same=ids, queue_ids=rest)
        parts.append(part / total * loss)
    return torch.stack(parts).sum()


def intra_alignment(image: Tensor, text: Tensor, present: Tensor, *, temperature: float, same: Tensor | None = None) -> Tensor:
    """MOON2.0's L_intra: an item's picture and its own text find each other.

    Args:
        image, text: (B, D) unit rows.
        present: (B, 2) flags; only items that have both take part.
        same: (B,) ids, as in `info_nce`.
    """
    both = present.bool().all(dim=1)
    return info_nce(image[both], text[both], temperature=temperature, same=None if same is None else same[both])


def balance(shares: Tensor) -> Tensor:
    """Balance of a mixture of experts (Switch Transformer, arXiv 2101.03961, eq. 4): E * sum over e of f_e * p_e.

    f_e is the share of rows whose first choice is e, p_e the mean probability of e; 1 when all are used alike, E when one does
    all. Gradients flow through p only.

    Args:
        shares: (B, E) routing probabilities.
    """
    count, experts = shares.shape
    if not count:
        return _nothing(shares)
    chosen = functional.one_hot(shares.argmax(dim=1), experts).to(shares.dtype).mean(dim=0)
    return experts * (chosen * shares.mean(dim=0)).sum()


def sparsity(shares: Tensor) -> Tensor:
    """Mean entropy of the routing of (B, E) rows over log E: 0 when each row uses one expert, 1 when it uses all alike.

    Our form of MOON2.0's L_sparsity, whose formula is not public.
    """
    count, experts = shares.shape
    if not count or experts < 2:
        return _nothing(shares)
    floor = torch.finfo(shares.dtype).tiny
    return -(shares * torch.log(shares.clamp(min=floor))).sum(dim=1).mean() / math.log(experts)


def prefixes(x: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """Unit vectors of the first d components, for each d: the Matryoshka prefixes a loss is averaged over."""
    return [x if dim == x.shape[1] else unit(x[:, :dim]) for dim in dims]


def _nothing(*parts: Tensor) -> Tensor:
    """0 that a backward pass may start from."""
    return torch.stack([part[:0].sum() for part in parts]).sum()


def _relations(q: Tensor, queue: Tensor, same: Tensor | None, queue_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(B, B) own pair, (B, B) batch rows of one id, (B, K) queue rows of the query's id."""
    own = torch.eye(len(q), dtype=torch.bool, device=q.device)
    twins = own if same is None else same[:, None] == same[None, :]
    if same is None or queue_ids is None:
        return own, twins, torch.zeros((len(q), len(queue)), dtype=torch.bool, device=q.device)
    return own, twins, same[:, None] == queue_ids[None, :]


def _require_both(rows: int, batch: tuple[str, Tensor | None], queue: tuple[str, Tensor | None]) -> None:
    if rows and (batch[1] is None) != (queue[1] is None):
        raise Misconfigured(f"loss with a queue: expected both {batch[0]} and {queue[0]} or neither; pass the other one too")
