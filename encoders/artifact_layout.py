"""What an artifact directory is made of: names of files, settings of preprocessing, figures of a variant."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Layout:
    """File names inside an artifact directory; `digested` is the order in which the digest reads those present."""

    image_model: str = "image.onnx"
    text_model: str = "text.onnx"
    fusion_model: str = "fusion.onnx"
    tokenizer: str = "tokenizer.json"
    preprocessing: str = "preprocessing.json"
    image_int8: str = "image.int8.onnx"
    text_int8: str = "text.int8.onnx"
    vocabulary: str = "vocabulary.json"
    terms: str = "terms.bin"
    manifest: str = "manifest.json"

    @property
    def models(self) -> tuple[str, ...]:
        """The ONNX files of the whole encoder; one tower may be missing."""
        return (self.image_model, self.text_model, self.fusion_model)

    @property
    def required(self) -> tuple[str, ...]:
        """What no artifact lacks."""
        return (self.fusion_model, self.tokenizer, self.preprocessing)

    @property
    def digested(self) -> tuple[str, ...]:
        """Everything that may decide a vector."""
        added = (self.image_int8, self.text_int8, self.vocabulary, self.terms)
        return (*self.models, self.tokenizer, self.preprocessing, *added)


LAYOUT: Final = Layout()


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What `preprocessing.json` holds.

    Args:
        height, width: images are stretched to this size, RGB, uint8.
        title_max_chars: longer titles are rejected, not cut: they are a fault of the catalog.
        max_bytes, max_pixels: larger images are rejected before decoding.
        core_crop: the core region of each picture is encoded too, and the image vector is the unit mean of both.
    """

    height: int = 96
    width: int = 96
    title_max_chars: int = 10_000
    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 25_000_000
    core_crop: bool = field(default=False, metadata={"since": 2})


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near a variant's vectors are to those of fp32, measured on real items when the artifact was made.

    Args:
        min_cosine, mean_cosine: of one item's vector in both.
        codes_changed: share of int8 codes that differ.
        recall_loss: recall of fp32 less the variant's, in points (0 to 100), worst task; below 0 where the variant is better.
        items: how many were compared.
    """

    min_cosine: float
    mean_cosine: float
    codes_changed: float
    recall_loss: float
    items: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in asdict(self).values()):
            raise ValueError("a figure that is not a number")
