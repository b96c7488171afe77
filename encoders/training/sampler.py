"""Draws the batches of a stage. A draw is a function of (seed, stage, step) alone: it can be drawn ahead, or again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.config import StageConfig
from encoders.item import Item
from encoders.tokenizer import Tokenizer, normalise
from encoders.towers import TextTower
from encoders.training.behaviour import Behaviour, Drawn
from encoders.training.corpus import Corpus
from encoders.training.pictures import Pictures
from encoders.training.texts import Texts, drop_fields, made_up_titles, titles_of, tokens_of, two_titles

MIN_BATCH = 2


@dataclass(frozen=True, slots=True, eq=False)
class PhotoBatch:
    """Labelled photos, two variants each; a photo of unknown label is a class of its own."""

    rows: Tensor
    first: Tensor
    second: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ItemBatch:
    """Items with picture and text: two pictures and two forms of text each, and the enriched text where asked for."""

    rows: Tensor
    products: Tensor
    categories: Tensor
    first: Tensor
    second: Tensor
    text: Texts
    other: Texts
    enriched: Texts | None


@dataclass(frozen=True, slots=True, eq=False)
class TitleBatch:
    """Titles in two ways of writing; `words` (B,) are equal where the titles are, whatever the items."""

    rows: Tensor
    words: Tensor
    left: Texts
    right: Texts


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """B rows of any modality mix: texts of all (empty where there is none), and the pictures of rows `picture_of`."""

    texts: Texts
    pictures: Tensor
    picture_of: Tensor

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True, eq=False)
class PairBatch:
    """Behaviour pairs: query, bought item, and where there is one a hard negative.

    `negative_of` (M,) are the pairs that have one; `log_q` (B,) is of the bought item; `days` (B,) float64; `asked` (B,)
    are the items that queries are, -1 for a text or a picture.
    """

    rows: Tensor
    query: Mixed
    positive: Mixed
    negative: Mixed | None
    negative_of: Tensor
    log_q: Tensor
    categories: Tensor
    days: Tensor
    asked: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step's draws; a part is None where the data have nothing for it. `made_up` are titles that belong to nothing."""

    step: int
    photos: PhotoBatch | None
    items: ItemBatch | None
    titles: tuple[TitleBatch, ...]
    pairs: PairBatch | None
    made_up: Texts | None


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What a stage draws from. `enriched` are texts of all items or None, `first_text` the text tower before any training."""

    corpus: Corpus
    pictures: Pictures
    tokenizer: Tokenizer
    behaviour: Behaviour | None
    enriched: Sequence[str] | None
    first_text: TextTower


class Sampler:
    """Draws batches of a stage's sizes."""

    def __init__(self, sources: Sources, config: StageConfig, *, seed: int, stage: int) -> None:
        self.sources, self.config = sources, config
        self.key = (seed, stage)
        corpus = sources.corpus
        titled, pictured = corpus.titled, corpus.picture_counts > 0
        owner = corpus.item_of_picture()
        # A photo with a title is learnt from with its title; a label alone is all that the others have.
        self.photo_rows = np.flatnonzero(~titled[owner])
        self.item_rows = np.flatnonzero(titled & pictured)
        self.words = sorted({word for item in corpus.items if item.title for word in item.title.split()})
        chars = sources.tokenizer.config.title_chars
        # By what the tokenizer reads, not by the letters as they stand.
        read = [" ".join(normalise(item.title, chars).split()) for item in corpus.items]
        self.title_words = np.unique(np.array(read, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
        plain = titled & ~pictured
        self.title_rows = [np.flatnonzero(plain & (corpus.data_set == at)) for at in np.unique(corpus.data_set[plain])]

    def __call__(self, step: int) -> Batch:
        """The batch of `step`."""
        random = np.random.default_rng((*self.key, step))
        return Batch(
            step,
            self._photos(random),
            self._items(random),
            tuple(batch for rows in self.title_rows if (batch := self._titles(rows, random)) is not None),
            self._pairs(random),
            self._made_up(random),
        )

    def _photos(self, random: np.random.Generator) -> PhotoBatch | None:
        rows = _some(self.photo_rows, self.config.photos, random)
        if rows is None:
            return None
        corpus = self.sources.corpus
        labels = corpus.label[corpus.item_of_picture()[rows]]
        alone = np.arange(len(rows)) + len(corpus.label_names)
        first, second = (self.sources.pictures.take(rows, random) for _ in range(2))
        return PhotoBatch(torch.from_numpy(rows), first, second, torch.from_numpy(np.where(labels >= 0, labels, alone)))

    def _items(self, random: np.random.Generator) -> ItemBatch | None:
        rows = _some(self.item_rows, self.config.illustrated, random)
        if rows is None:
            return None
        corpus, sources = self.sources.corpus, self.sources
        starts, counts = corpus.picture_offsets[rows], corpus.picture_counts[rows]
        first, second = (sources.pictures.take(starts + random.integers(counts), random) for _ in range(2))
        items = [corpus.items[row] for row in rows]
        text, other = (tokens_of(sources.tokenizer, [drop_fields(item, random) for item in items]) for _ in range(2))
        enriched = None if sources.enriched is None else titles_of(sources.tokenizer, [sources.enriched[row] for row in rows])
        return ItemBatch(
            torch.from_numpy(rows), torch.from_numpy(corpus.product[rows]), torch.from_numpy(corpus.category[rows]),
            first, second, text, other, enriched,
        )  # fmt: skip

    def _titles(self, rows: NDArray[np.int64], random: np.random.Generator) -> TitleBatch | None:
        chosen = _some(rows, self.config.titles, random)
        if chosen is None:
            return None
        corpus = self.sources.corpus
        pairs = [two_titles(corpus.items[row].title or "", corpus.variants[row], random) for row in chosen]
        left, right = zip(*pairs, strict=True)
        tokenizer = self.sources.tokenizer
        words = torch.from_numpy(self.title_words[chosen])
        return TitleBatch(torch.from_numpy(chosen), words, titles_of(tokenizer, left), titles_of(tokenizer, right))

    def _made_up(self, random: np.random.Generator) -> Texts | None:
        if not self.words or not self.config.made_up:
            return None
        return titles_of(self.sources.tokenizer, made_up_titles(self.words, self.config.made_up, random))

    def _pairs(self, random: np.random.Generator) -> PairBatch | None:
        behaviour = self.sources.behaviour
        if behaviour is None or not self.config.behaviour or len(behaviour) < MIN_BATCH:
            return None
        return self.pair_batch(behaviour.draw(self.config.behaviour, random), random)

    def pair_batch(self, pairs: Drawn, random: np.random.Generator) -> PairBatch:
        """Pairs that were drawn elsewhere, as a batch."""
        has = np.flatnonzero(pairs.negative >= 0)
        empty = Item("")
        items = self.sources.corpus.items
        asked = [
            Item("", title=text) if text else _content(items[row]) if row >= 0 else empty
            for text, row in zip(pairs.query_text, pairs.query_item, strict=True)
        ]
        return PairBatch(
            torch.from_numpy(pairs.item),
            self._mixed(asked, self._pictures_of(pairs.query_item, pairs.query_picture, random), random),
            self._bought(pairs.item, random),
            self._bought(pairs.negative[has], random) if len(has) else None,
            torch.from_numpy(has),
            torch.from_numpy(pairs.log_q),
            torch.from_numpy(self.sources.corpus.category[pairs.item]),
            torch.from_numpy(pairs.days),
            torch.from_numpy(pairs.query_item),
        )

    def _bought(self, rows: NDArray[np.int64], random: np.random.Generator) -> Mixed:
        nothing = np.full(len(rows), -1)
        items = [_content(self.sources.corpus.items[row]) for row in rows]
        return self._mixed(items, self._pictures_of(rows, nothing, random), random)

    def _pictures_of(
        self, items: NDArray[np.int64], pictures: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """(B,) a picture of each item, or the one given, or -1."""
        corpus = self.sources.corpus
        counts = np.where(items >= 0, corpus.picture_counts[items], 0)
        own = corpus.picture_offsets[items] + random.integers(np.maximum(counts, 1))
        return np.where(pictures >= 0, pictures, np.where(counts > 0, own, -1))

    def _mixed(self, items: Sequence[Item], pictures: NDArray[np.int64], random: np.random.Generator) -> Mixed:
        has = np.flatnonzero(pictures >= 0)
        taken = self.sources.pictures.take(pictures[has], random)
        return Mixed(tokens_of(self.sources.tokenizer, items), taken, torch.from_numpy(has))


def _content(item: Item) -> Item:
    """The item's title, or where it has none, its other text."""
    return Item("", title=item.title) if item.title else item


def _some(rows: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64] | None:
    """`count` different rows, or all of them; None where that is too few to contrast."""
    size = min(count, len(rows))
    return random.choice(rows, size=size, replace=False) if size >= MIN_BATCH else None
