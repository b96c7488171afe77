"""What a batch is asked: contrastive losses over photos, items, titles and behaviour pairs, each averaged over the prefixes.

SCL (arXiv 2407.19467): InfoNCE against a momentum encoder's queue plus a triplet loss on hard negatives. MOON2.0 (arXiv
2511.12449): queries of every modality form against the whole item, an item's picture against its own text, a filter of
unlikely pairs, balanced experts. B rows, D dims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from encoders.config import StageConfig, Switches
from encoders.losses import balance, info_nce, info_nce_queue, prefixes, supervised, triplet
from encoders.training.filter import keep_pairs, margin_at, nearest_other
from encoders.training.forms import Forms
from encoders.training.queue import NegativeQueue, near
from encoders.training.sampler import ItemBatch, PairBatch, PhotoBatch, TitleBatch
from encoders.training.texts import Texts

Losses = Iterator[tuple[str, Tensor]]

#: Spatio-temporal negatives lie this many days around a pair, and where fewer than this many do, all serve.
WINDOW_DAYS: Final = 30.0
LEAST_NEAR: Final = 32
#: Weights where the config names none.
WEIGHTS: Final = {
    "label": 1.0, "instance": 0.5, "name": 0.5, "cross": 1.0, "inter": 0.5, "intra": 0.5, "fields": 0.5, "enriched": 0.25,
    "text": 1.0, "behaviour": 0.15, "hard": 0.25, "balance": 0.01, "debias": 0.1, "keep": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What every objective is computed under: settings, the networks, and how far training has come (0 to 1)."""

    config: StageConfig
    switches: Switches
    dims: tuple[int, ...]
    online: Forms
    done: float

    def weight(self, name: str) -> float:
        """Of a loss."""
        return self.config.weights.get(name, WEIGHTS[name])

    def mean(self, loss: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        """`loss` averaged over the whole vectors and their prefixes."""
        return torch.stack([loss(*parts) for parts in zip(*(prefixes(v, self.dims) for v in vectors), strict=True)]).mean()


def photo_losses(batch: PhotoBatch, names: Tensor | None, queue: NegativeQueue | None, s: Setting) -> Losses:
    """Photos of one label find each other, and so do two variants of one photo; a photo finds the name of its label.

    Args:
        batch: photos.
        names: (labels, D) vectors of the labels' names, or None.
        queue: keys of earlier photos with their labels.
    """
    x = s.online.pictures(torch.cat([batch.first, batch.second]))
    size, labels = len(batch.rows), batch.labels.repeat(2)
    yield "label", s.weight("label") * s.mean(lambda v: supervised(v, labels, temperature=s.config.label_temperature), x)
    same_photo = _contrast(x[:size], x[size:], batch.rows, queue, s, s.config.temperature)
    yield "instance", s.weight("instance") * same_photo
    if names is not None and s.switches.inter_alignment:
        known = labels < len(names)
        if bool(known.any()):
            yield (
                "name",
                s.weight("name")
                * s.mean(lambda v, w: functional.cross_entropy(v[known] @ w.T / s.config.temperature, labels[known]), x, names),
            )


def item_losses(batch: ItemBatch, queue: NegativeQueue | None, s: Setting) -> Losses:
    """An item's forms find each other: picture, text, both."""
    picture, other_picture = s.online.pictures(batch.first), s.online.towers_of_pictures(batch.second)
    text, other_text = s.online.texts(batch.text), s.online.towers_of_texts(batch.other)
    whole, shares = s.online.fuse(other_picture, other_text)
    temperature = s.config.temperature
    plain = lambda a, b: info_nce(a, b, temperature=temperature)  # noqa: E731
    # Colours of one product share its text: they are no negatives where no picture tells them apart.
    words = lambda a, b: info_nce(a, b, temperature=temperature, same=batch.products)  # noqa: E731
    fields, _ = s.online.fuse(None, other_text)
    yield "fields", s.weight("fields") * s.mean(words, text, fields)
    yield "cross", s.weight("cross") * s.mean(plain, picture, text)
    if s.switches.inter_alignment:
        # Queries t, i and mm against the item as a whole; mm against itself is two pictures and two texts of one item.
        query, _ = s.online.fuse(s.online.towers_of_pictures(batch.first), s.online.towers_of_texts(batch.text))
        for name, asked in (("inter_i", picture), ("inter_t", text), ("inter_mm", query)):
            yield name, s.weight("inter") * _against(asked, whole, batch, queue, s)
    if s.switches.intra_alignment:
        own, _ = s.online.fuse(s.online.towers_of_pictures(batch.second), None)
        yield "intra", s.weight("intra") * s.mean(plain, own, fields)
    if batch.enriched is not None:
        yield "enriched", s.weight("enriched") * s.mean(words, s.online.texts(batch.enriched), text)
    if s.switches.hard_negatives:
        yield "hard_item", s.weight("hard") * _hardest_of_category(picture, whole, batch, s)
    if s.switches.experts:
        yield "balance", s.weight("balance") * balance(shares)


def title_losses(batch: TitleBatch, queue: NegativeQueue | None, s: Setting) -> Losses:
    """A title finds another way to write it; the same title of another item is no negative."""
    a, b = s.online.texts(batch.left), s.online.texts(batch.right)
    yield "text", s.weight("text") * _contrast(a, b, batch.words, queue, s, s.config.text_temperature)


def keep_loss(texts: Texts, start: Tensor, s: Setting) -> Tensor:
    """Texts stay where they were before training: 1 - cosine with (B, D) `start`, the text tower's first vectors."""
    return s.weight("keep") * s.mean(lambda v, w: (1.0 - (v * w).sum(dim=1)).mean(), s.online.texts(texts), start)


def pair_losses(batch: PairBatch, queue: NegativeQueue | None, s: Setting) -> Losses:
    """What was bought answers the query; what was not, or another item of the category, answers it less."""
    asked, bought = s.online.mixed(batch.query), s.online.mixed(batch.positive)
    keep = torch.ones(len(asked), dtype=torch.bool, device=asked.device)
    if s.switches.dynamic_filter:
        config = s.config
        rival, there = nearest_other(asked.detach(), bought.detach(), batch.rows, _itself(batch.asked, batch.rows))
        margin = margin_at(s.done, config.filter_margin)
        keep = keep_pairs(
            asked, bought, bought[rival], margin=margin, sharpness=config.filter_sharpness, threshold=config.filter_threshold,
            valid=there,
        ).mask  # fmt: skip
    rows = batch.rows[keep]
    if len(rows) > 1:
        yield "behaviour", s.weight("behaviour") * _bought(asked[keep], bought[keep], batch, keep, queue, s)
    if s.switches.hard_negatives and batch.negative is not None:
        at = batch.negative_of
        worse = s.online.mixed(batch.negative)
        yield (
            "hard_pair",
            s.weight("hard") * s.mean(lambda a, p, n: triplet(a, p, n, margin=s.config.margin), asked[at], bought[at], worse),
        )


def _bought(a: Tensor, b: Tensor, batch: PairBatch, keep: Tensor, queue: NegativeQueue | None, s: Setting) -> Tensor:
    """InfoNCE of behaviour pairs against the batch and the spatio-temporal rows of the queue."""
    temperature, ids, asked = s.config.behaviour_temperature, batch.rows[keep], batch.asked[keep]
    log_q, barred = batch.log_q[keep] if s.switches.popularity else None, _itself(asked, ids)
    if queue is None:
        # From queries to items only, as with a queue: the log probabilities are of the items.
        alone = lambda v, w: info_nce_queue(v, w, w[:0], temperature=temperature, same=ids, log_q=log_q, barred=barred)  # noqa: E731
        return s.mean(alone, a, b)
    rows = queue.rows()
    allowed = near(rows, batch.categories[keep], batch.days[keep], window=WINDOW_DAYS, least=LEAST_NEAR)
    allowed = allowed & ~_itself(asked, rows.items)

    def loss(v: Tensor, w: Tensor, bank: Tensor) -> Tensor:
        return info_nce_queue(
            v, w, bank, temperature=temperature, same=ids, queue_ids=rows.items, log_q=log_q,
            queue_log_q=rows.log_q if s.switches.popularity else None, allowed=allowed, barred=barred,
        )  # fmt: skip

    return s.mean(loss, a, b, rows.vectors)


def _itself(asked: Tensor, items: Tensor) -> Tensor:
    """(B, K): which rows of `items` (K,) a query (B,) itself is: nothing is more like it, and it is no wrong answer."""
    return asked[:, None] == items[None, :]


def _against(asked: Tensor, whole: Tensor, batch: ItemBatch, queue: NegativeQueue | None, s: Setting) -> Tensor:
    return _contrast(asked, whole, batch.rows, queue, s, s.config.temperature)


def _contrast(a: Tensor, b: Tensor, ids: Tensor, queue: NegativeQueue | None, s: Setting, temperature: float) -> Tensor:
    if queue is None:
        return s.mean(lambda v, w: info_nce(v, w, temperature=temperature, same=ids), a, b)
    rows = queue.rows()

    def both_ways(v: Tensor, w: Tensor, bank: Tensor) -> Tensor:
        forward = info_nce_queue(v, w, bank, temperature=temperature, same=ids, queue_ids=rows.items)
        return 0.5 * (forward + info_nce_queue(w, v, bank, temperature=temperature, same=ids, queue_ids=rows.items))

    # Each prefix of the queue is a unit row of its own, as each prefix of the batch is.
    return s.mean(both_ways, a, b, rows.vectors)


def _hardest_of_category(picture: Tensor, whole: Tensor, batch: ItemBatch, s: Setting) -> Tensor:
    """Triplet against the most similar other product of the same category in the batch."""
    with torch.no_grad():
        known = batch.categories >= 0
        mates = (batch.categories[:, None] == batch.categories[None, :]) & (batch.products[:, None] != batch.products[None, :])
        mates &= known[:, None]
        hardest = (picture @ whole.T).masked_fill(~mates, -2.0).argmax(dim=1)
        valid = mates.any(dim=1)
    return s.mean(lambda a, p: triplet(a, p, p[hardest], margin=s.config.margin, valid=valid), picture, whole)
