"""Recall on the validation split while training runs: cheap, in float, and never on the test split. V rows, D dims."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.metrics import precision_at, recall_at
from encoders.tokenizer import Tokenizer
from encoders.training.corpus import Corpus
from encoders.training.forms import Forms
from encoders.training.texts import moved, titles_of
from encoders.wording import vary_title

_MOST = 600


class Probe:
    """Measures a model on held-out items: photos by label, pictures by their title, damaged titles by the whole ones."""

    def __init__(self, corpus: Corpus, forms: Forms, tokenizer: Tokenizer, seed: int) -> None:
        self.corpus, self.forms, self.tokenizer = corpus, forms, tokenizer
        self.device = forms.model.text.table.device
        titled, pictured = corpus.titled, corpus.picture_counts > 0
        owner = corpus.item_of_picture()
        self.photos = np.flatnonzero((~titled & (corpus.label >= 0))[owner])[:_MOST]
        self.items = np.flatnonzero(titled & pictured)[:_MOST]
        self.titles = np.flatnonzero(titled & ~pictured)[:_MOST]
        random = np.random.default_rng((seed, 2))
        self.damaged = [vary_title(corpus.items[row].title or "", random, drop=0.5, misspell=0.3) for row in self.titles]

    def __call__(self) -> dict[str, float]:
        """Shares by measure; a measure that the data do not allow is left out."""
        self.forms.model.eval()
        with torch.no_grad():
            return {name: value for name, value in self._measures().items() if np.isfinite(value)}

    def _measures(self) -> dict[str, float]:
        found: dict[str, float] = {}
        owner = self.corpus.item_of_picture()
        if len(self.photos) > 1:
            labels, groups = (part[owner[self.photos]] for part in (self.corpus.label, self.corpus.group))
            x = self.forms.pictures(self._plain(self.photos))
            scores = _scores(x, x)
            scores[groups[:, None] == groups[None, :]] = -np.inf
            found["photo_precision_at_10"] = precision_at(scores, (labels[:, None] == labels[None, :]) & np.isfinite(scores), 10)
        if len(self.items) > 1:
            pictures = self.forms.pictures(self._plain(self.corpus.picture_offsets[self.items]))
            texts = self._texts([_words(self.corpus, row) for row in self.items])
            found["text_to_image_recall_at_10"] = recall_at(_scores(texts, pictures), np.eye(len(self.items), dtype=bool), 10)
        if len(self.titles) > 1:
            gallery = self._texts([self.corpus.items[row].title or "" for row in self.titles])
            found["damaged_title_recall_at_1"] = recall_at(
                _scores(self._texts(self.damaged), gallery), np.eye(len(self.titles), dtype=bool), 1
            )
        return found

    def _plain(self, rows: NDArray[np.int64]) -> Tensor:
        return self.forms.source.take(rows, None).to(self.device)

    def _texts(self, titles: list[str]) -> Tensor:
        return self.forms.texts(moved(titles_of(self.tokenizer, titles), self.device))


def _words(corpus: Corpus, row: np.int64) -> str:
    item = corpus.items[row]
    return f"{item.title or ''} {item.attributes or ''}"


def _scores(a: Tensor, b: Tensor) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = (a @ b.T).cpu().numpy()
    return scores
