"""One training step of `Moon`: the sum of contrastive losses over photos, illustrated items, titles and baskets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoders.augment import augment_images
from encoders.batches import Illustrated, Photos, Titles, draw_pairs, draw_titles, drop_fields, token_tensors
from encoders.item import Item
from encoders.losses import info_nce, prefixes, supervised
from encoders.tokenizer import Tokenizer
from encoders.towers import Moon

# Labels and baskets have many right answers, so they are asked for less sharply than an item's own.
LABEL_TEMPERATURE: Final = 0.1
BASKET_TEMPERATURE: Final = 0.15


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Batch sizes, temperatures and weights of the losses.

    Args:
        prefix_dims: Matryoshka prefixes that every loss is averaged over, beside the whole vector.
        text_weight, basket_weight: of title pairs and of items bought together. Baskets are kept light: behaviour
            labels alone would turn the vector into a second item id.
    """

    photos: int = 64
    illustrated: int = 28
    titles: int = 192
    pairs: int = 128
    temperature: float = 0.07
    text_temperature: float = 0.05
    instance_weight: float = 0.5
    name_weight: float = 0.5
    cross_weight: float = 1.0
    text_weight: float = 1.0
    basket_weight: float = 0.15
    prefix_dims: tuple[int, ...] = (64,)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything a step draws from."""

    photos: Photos
    illustrated: Illustrated
    titles: list[Titles]


class Stepper:
    """Draws a batch and computes its losses. The draws follow from the two generators alone."""

    def __init__(self, model: Moon, tokenizer: Tokenizer, data: TrainingData, config: LossConfig, seed: int) -> None:
        self.model, self.tokenizer, self.data, self.config = model, tokenizer, data, config
        self.random = np.random.default_rng(seed)
        self.torch_random = torch.Generator().manual_seed(seed)
        self.dims: Final = (*config.prefix_dims, model.dim)

    def losses(self, side: int) -> dict[str, Tensor]:
        """Weighted losses by name, with pictures of side x side."""
        return dict(part for source in (self._photos, self._illustrated, self._titles) for part in source(side))

    def _photos(self, side: int) -> Iterator[tuple[str, Tensor]]:
        photos, config = self.data.photos, self.config
        if len(photos.pixels) < 2:
            return
        size = min(config.photos, len(photos.pixels))
        rows = self.random.choice(len(photos.pixels), size=size, replace=False)
        pixels = photos.pixels[torch.from_numpy(rows)]
        views = [augment_images(pixels, side, self.torch_random) for _ in range(2)]
        x = self.model.fuse(self.model.image(torch.cat(views)), None)
        labels = torch.from_numpy(photos.labels[rows]).repeat(2)
        # A photo without a known label is alone in its class: only its own second view is like it.
        alone = torch.arange(size).repeat(2) + len(photos.names)
        labels = torch.where(labels >= 0, labels, alone)
        yield "label", self._mean(lambda v: supervised(v, labels, temperature=LABEL_TEMPERATURE), x)
        yield (
            "instance",
            config.instance_weight * self._mean(lambda v: info_nce(v[:size], v[size:], temperature=config.temperature), x),
        )
        if photos.names:
            names = self.model.fuse(None, self._text([Item(name, title=name) for name in photos.names]))
            known = labels < len(photos.names)
            yield (
                "name",
                config.name_weight
                * self._mean(lambda v, w: functional.cross_entropy(v[known] @ w.T / config.temperature, labels[known]), x, names),
            )

    def _illustrated(self, side: int) -> Iterator[tuple[str, Tensor]]:
        data, config = self.data.illustrated, self.config
        if len(data.items) < 2:
            return
        rows = self.random.choice(len(data.items), size=min(config.illustrated, len(data.items)), replace=False)
        starts, sizes = data.offsets[rows], np.diff(data.offsets)[rows]
        picks = [starts + self.random.integers(sizes) for _ in range(2)]
        pixels = data.pixels[torch.from_numpy(np.concatenate(picks))]
        image = self.model.image(augment_images(pixels, side, self.torch_random))
        first, second = image[: len(rows)], image[len(rows) :]
        items = [data.items[row] for row in rows]
        text = self._text([drop_fields(item, self.random) for item in items])
        other = self._text([drop_fields(item, self.random) for item in items])
        alone, words, both = self.model.fuse(first, None), self.model.fuse(None, text), self.model.fuse(second, other)
        titles = {item.title: at for at, item in enumerate(items)}
        same = torch.tensor([titles[item.title] for item in items])
        # Colours of one product share its text: they are no negatives where no picture tells them apart.
        yield (
            "fields",
            0.5
            * config.cross_weight
            * self._mean(
                lambda v, w: info_nce(v, w, temperature=config.temperature, same=same), words, self.model.fuse(None, other)
            ),
        )
        for name, a, b in (("cross", alone, words), ("image_both", alone, both), ("text_both", words, both)):
            weight = config.cross_weight * (1.0 if name == "cross" else 0.5)
            yield name, weight * self._mean(lambda v, w: info_nce(v, w, temperature=config.temperature), a, b)

    def _titles(self, side: int) -> Iterator[tuple[str, Tensor]]:
        config = self.config
        for titles in self.data.titles:
            left, right = draw_titles(titles, min(config.titles, len(titles.titles)), self.random)
            x = self.model.fuse(None, self._text([Item("", title=title) for title in (*left, *right)]))
            a, b = x[: len(left)], x[len(left) :]
            yield "text", config.text_weight * self._mean(lambda v, w: info_nce(v, w, temperature=config.text_temperature), a, b)
            if titles.baskets is not None and config.basket_weight and len(titles.baskets.offsets) > 1:
                yield "basket", config.basket_weight * self._basket(titles)

    def _basket(self, titles: Titles) -> Tensor:
        assert titles.baskets is not None
        first, second = draw_pairs(titles.baskets, self.config.pairs, self.random)
        rows = np.concatenate([first, second])
        x = self.model.fuse(None, self._text([Item("", title=titles.titles[row]) for row in rows]))
        log_q = torch.from_numpy(titles.log_q[rows])
        # Both ends are drawn from one distribution, so one correction serves both directions.
        same = torch.from_numpy(second)
        a, b = x[: len(first)], x[len(first) :]
        return self._mean(lambda v, w: info_nce(v, w, temperature=BASKET_TEMPERATURE, same=same, log_q=log_q[len(first) :]), a, b)

    def _text(self, items: list[Item]) -> Tensor:
        return self.model.text(*token_tensors(self.tokenizer, items))

    def _mean(self, loss: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        """`loss` averaged over the whole vectors and their prefixes."""
        cut = zip(*(prefixes(v, self.dims) for v in vectors), strict=True)
        return torch.stack([loss(*parts) for parts in cut]).mean()
