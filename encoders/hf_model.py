"""Pretrained models with both, or either, of their sides in one space: torch modules that can be exported.

B rows, W the width of the space as the model gives it, D after a projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.backbones.huggingface import DUAL_TYPES, HuggingFaceBackbone, image_backbone
from encoders.backbones.huggingface_text import TEXT_TYPES, PretrainedText, dual_text, sentence_text
from encoders.backbones.pretrained import Pretrained
from encoders.hf_tokenizer import build_tokenizer
from encoders.item import Item
from encoders.vectors import unit
from moontide.errors import Misconfigured

BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pretrained model: its image side, its text side, or both.

    Args:
        image, text: None where the model lacks that modality.
        shared: both sides give vectors of one space; False: each has dimensions of its own.
        origin: what it was made from, for the manifest.
    """

    image: HuggingFaceBackbone | None
    text: PretrainedText | None
    shared: bool
    origin: dict[str, str]

    @property
    def width(self) -> int:
        """Of a vector without projection."""
        widths = [part.width for part in (self.image, self.text) if part is not None]
        return widths[0] if self.shared else sum(widths)

    def modules(self, projection: Tensor | None = None) -> tuple[ImageModel | None, TextModel | None]:
        """Image and text tower with unit rows in the common dimensions, times `projection` (D, W) and unit again."""
        # Without a shared space the picture's dimensions come first, the text's after them.
        head = Head(self.width, projection)
        image = None if self.image is None else ImageModel(self.image, Placed(0, self.width - self.image.width, head))
        text = None if self.text is None else TextModel(self.text.tower, Placed(self.width - self.text.width, 0, head))
        return image, text


class Head(nn.Module):
    """(B, W) -> (B, D) unit rows; without a projection D = W. A zero row stays zero."""

    def __init__(self, width: int, projection: Tensor | None) -> None:
        super().__init__()
        self.dim = width if projection is None else len(projection)
        self.register_buffer("projection", projection)

    def forward(self, rows: Tensor) -> Tensor:
        """Project where there is a projection."""
        return unit(rows) if self.projection is None else unit(unit(rows) @ self.get_buffer("projection").T)


class Placed(nn.Module):
    """Puts a side's vector among the dimensions of the whole: `before` and `after` zeros around it."""

    def __init__(self, before: int, after: int, head: Head) -> None:
        super().__init__()
        self.before, self.after, self.head = before, after, head

    def forward(self, rows: Tensor) -> Tensor:
        """(B, W of the side) -> (B, D)."""
        if self.before or self.after:
            rows = nn.functional.pad(rows, (self.before, self.after))
        result: Tensor = self.head(rows)
        return result


class ImageModel(nn.Module):
    """(B, H, W, 3) uint8 pixels -> (B, D) unit rows."""

    def __init__(self, backbone: HuggingFaceBackbone, placed: Placed) -> None:
        super().__init__()
        self.backbone, self.placed = backbone, placed

    def forward(self, pixels: Tensor) -> Tensor:
        """The whole image side."""
        result: Tensor = self.placed(self.backbone(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0))
        return result


class TextModel(nn.Module):
    """(B, L) int32 ids and (B, L) uint8 kinds -> (B, D) unit rows."""

    def __init__(self, tower: nn.Module, placed: Placed) -> None:
        super().__init__()
        self.tower, self.placed = tower, placed

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """The whole text side."""
        result: Tensor = self.placed(self.tower(ids, kinds))
        return result


class MeanFusion(nn.Module):
    """The mean of the modalities that are there, with length 1."""

    def forward(self, image: Tensor, text: Tensor, present: Tensor) -> Tensor:
        """(B, D), (B, D) and (B, 2) flags -> (B, D)."""
        return unit(image * present[:, :1] + text * present[:, 1:])


def load(model: Pretrained, text: Pretrained | None = None, *, pooling: str | None = None, prefix: str | None = None) -> Loaded:
    """Read a pretrained model.

    Args:
        model: a CLIP-like model, a sentence encoder, or an image network.
        text: a sentence encoder beside an image network; the two get dimensions of their own.
        pooling, prefix: as `sentence_text`.

    Raises:
        Misconfigured: not there, not supported, or `text` beside a model that has a text side.
    """
    kind = model.config()["model_type"]
    origin = {"model": model.title, "model_type": kind} | ({} if text is None else {"text": text.title})
    if text is not None and kind in {*DUAL_TYPES, *TEXT_TYPES}:
        raise Misconfigured(
            f"--text: expected an image network as --model, got {kind!r}, which reads text itself; leave --text out"
        )
    if kind in DUAL_TYPES:
        network = model.network(DUAL_TYPES[kind])
        image, words = image_backbone(model, network), dual_text(model, network, kind, prefix=prefix or "")
        if image.width != words.width:
            raise Misconfigured(f"model {model.name}: expected one width, got {image.width} and {words.width}; use another model")
        return Loaded(image, words, shared=True, origin=origin)
    if kind in TEXT_TYPES:
        return Loaded(None, sentence_text(model, pooling=pooling, prefix=prefix), shared=True, origin=origin)
    beside = None if text is None else sentence_text(text, pooling=pooling, prefix=prefix)
    return Loaded(image_backbone(model), beside, shared=beside is None, origin=origin)


def fit_projection(loaded: Loaded, items: Sequence[Item], pixels: NDArray[np.uint8], dim: int) -> Tensor:
    """(D, W) rows: the directions in which texts and pictures have most of their length, by uncentred PCA.

    Uncentred, because it is cosines that must survive: a mean taken off would change them all.

    Args:
        loaded: the model.
        items: their texts are read, where the model reads texts.
        pixels: (N, H, W, 3) uint8 of its side, where it reads pictures.
        dim: D.

    Raises:
        Misconfigured: D is not below W, or above the number of texts and pictures.
    """
    if not 1 <= dim < loaded.width:
        raise Misconfigured(f"--dim: expected 1 to {loaded.width - 1}, below the model's own {loaded.width}, got {dim}")
    image, text = loaded.modules()
    rows = [np.zeros((0, loaded.width), np.float32)]
    if image is not None:
        rows += run_batches(image, [pixels])
    if text is not None and loaded.text is not None:
        tokens = build_tokenizer(loaded.text.tokenizer, loaded.text.vocabulary)(items)
        full = np.flatnonzero(tokens.lengths)
        rows += run_batches(text, list(tokens.padded(full[np.argsort(tokens.lengths[full], kind="stable")])))
    vectors = np.concatenate(rows).astype(np.float64)
    if len(vectors) < dim:
        raise Misconfigured(
            f"--fit: expected at least {dim} texts and pictures, got {len(vectors)}; give more, or a smaller --dim"
        )
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    found = axes[:, ::-1][:, :dim].T
    # Signs are free: the largest entry decides, so that two runs agree.
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    return torch.from_numpy((found * np.sign(largest)).astype(np.float32))


def run_batches(module: nn.Module, inputs: Sequence[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    """The module's rows for `inputs`, `BATCH` at a time, without gradients."""
    for start in range(0, len(inputs[0]), BATCH):
        with torch.inference_mode():
            parts = (torch.from_numpy(np.ascontiguousarray(part[start : start + BATCH])) for part in inputs)
            yield module(*parts).numpy()
