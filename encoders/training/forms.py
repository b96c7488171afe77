"""A model seen as what a stage asks of it: vectors of pictures alone, texts alone, and any mix. B rows, D dims."""

from __future__ import annotations

import torch
from torch import Tensor

from encoders.towers import Moon
from encoders.training.pictures import Pictures
from encoders.training.sampler import Mixed
from encoders.training.texts import Texts


class Forms:
    """Vectors of one model; `pictures` knows whether what was drawn are pixels or kept features."""

    def __init__(self, model: Moon, source: Pictures) -> None:
        self.model, self.source = model, source

    def towers_of_pictures(self, taken: Tensor) -> Tensor:
        """(B, D) of the image tower."""
        return self.source.embed(self.model.image, taken)

    def towers_of_texts(self, texts: Texts) -> Tensor:
        """(B, D) of the text tower."""
        rows: Tensor = self.model.text(texts.ids, texts.kinds, texts.weights)
        return rows

    def pictures(self, taken: Tensor) -> Tensor:
        """(B, D) of items with a picture alone."""
        return self.model.fuse(self.towers_of_pictures(taken), None)

    def texts(self, texts: Texts) -> Tensor:
        """(B, D) of items with a text alone."""
        return self.model.fuse(None, self.towers_of_texts(texts))

    def fuse(self, image: Tensor | None, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, D) vectors of tower outputs and (B, E) shares of the experts."""
        return self.model.routed(image, text)

    def mixed(self, rows: Mixed) -> Tensor:
        """(B, D) of rows of any modality mix."""
        text = self.towers_of_texts(rows.texts)
        said = (rows.texts.weights.sum(dim=1) > 0).float()
        image, seen = torch.zeros_like(text), torch.zeros_like(said)
        if len(rows.picture_of):
            image = image.index_copy(0, rows.picture_of, self.towers_of_pictures(rows.pictures))
            seen = seen.index_fill(0, rows.picture_of, 1.0)
        vectors: Tensor = self.model.fusion(image, text, torch.stack([seen, said], dim=1))
        return vectors
