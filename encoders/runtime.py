"""Items in, canonical vectors out: tokenising and decoding first, then the towers, then the fusion. No torch.

B items, I of them with an image, T with text, H x W the image size, D the space's dim.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.artifact import LAYOUT, Artifact, load_artifact
from encoders.base import ItemEncoder, Progress, no_progress
from encoders.images import ImageLoader
from encoders.item import Item, hash_content
from encoders.prepare import Prepared, Preparer
from encoders.tokenizer import Tokens
from encoders.variants import Choice, Wanted, open_models
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

__all__ = ["Encoder", "Prepared", "Progress", "no_progress"]

IMAGE_BATCH = 32
#: Input of a text model, and setting of a tokenizer.
WEIGHTS = "weights"
# What is read of a table stays in the processor's cache, and a network over sub-words pays for less padding: on titles
# both are twice as fast as 256 at once.
TEXT_BATCH = 32


class Encoder(ItemEncoder[Prepared]):
    """A trained MOON encoder: images and text to vectors."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        images: ImageLoader | None = None,
        precision: Wanted = "fp32",
    ) -> None:
        """Use `Encoder.load`."""
        self.artifact = artifact
        self._threads = threads or len(os.sched_getaffinity(0))
        self._preparer = Preparer(artifact, images or ImageLoader(), threads=self._threads)
        sessions, self._precision = open_models(artifact, precision, threads=self._threads)
        self._fusion = sessions[LAYOUT.fusion_model]
        width = self._fusion.get_outputs()[0].shape[-1]
        if isinstance(width, int) and width != self.space.dim:
            raise Misconfigured(
                f"{LAYOUT.fusion_model}: expected vectors of {self.space.dim} numbers, got {width}; export the artifact again"
            )
        self._image, self._text = sessions.get(LAYOUT.image_model), sessions.get(LAYOUT.text_model)
        self._require_weights()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        images: ImageLoader | None = None,
        precision: Wanted = "fp32",
    ) -> ItemEncoder[Any]:
        """The encoder of an artifact directory: an `Encoder`, or an `encoders.item_tower.ItemTower` where it holds one.

        Args:
            path: the directory.
            threads: of the model and of image decoding together; None: every core this process may use.
            images: where images may be read from; None: only bytes inside the items.
            precision: what the model computes in; ``auto`` measures which is fastest here, among those that agree with
                fp32. Every process that writes one space should have the same.

        Raises:
            Misconfigured: the artifact is incomplete, changed, or refused; the precision cannot run here.
        """
        from encoders.kinds import load_any, open_any

        return open_any(load_any(path), threads=threads, images=images, precision=precision)

    @classmethod
    def load_moon(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        images: ImageLoader | None = None,
        precision: Wanted = "fp32",
    ) -> Encoder:
        """As `load`, for programs that look at images and texts: an item tower is refused."""
        return cls(load_artifact(path), threads=threads, images=images, precision=precision)

    @property
    def precision(self) -> Choice:
        """What the model computes in, and what was measured to choose it."""
        return self._precision

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector this encoder makes."""
        return self.artifact.manifest.space

    def content_hash(self, item: Item) -> str:
        """32 hex digits that change when the item's content does; reads the image, and does not decode it.

        Raises:
            Unencodable: the image cannot be read.
            Transient: an object store failed.
        """
        return hash_content(item, None if item.image is None else self._preparer.images.read(item.image))

    def prepare(self, items: Sequence[Item], *, progress: Progress = no_progress) -> Prepared:
        """Read and decode images, tokenise text, hash content. CPU and I/O only: overlaps with `run` in a thread.

        Args:
            items: B >= 0 items.
            progress: told of each item, so that whoever watches knows the one that a decoder dies of.

        Raises:
            Transient: an object store failed.
        """
        return self._preparer(items, progress)

    def floats(self, prepared: Prepared) -> NDArray[np.float32]:
        """As `ItemEncoder.floats`: each tower on the rows that have its modality, then the fusion."""
        count, dim = len(prepared), self.space.dim
        if not count:
            return np.zeros((0, dim), np.float32)
        towers = np.zeros((2, count, dim), np.float32)
        present = np.zeros((count, 2), np.float32)
        self._run_images(prepared.pixels, prepared.image_rows, towers[0])
        present[prepared.image_rows, 0] = 1.0
        text_rows = np.flatnonzero(prepared.tokens.lengths)
        self._run_texts(prepared.tokens, text_rows, towers[1])
        present[text_rows, 1] = 1.0
        (vectors,) = self._fusion.run(None, {"image": towers[0], "text": towers[1], "present": present})
        return np.asarray(vectors, np.float32)

    def _run_images(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        if self._image is None or not len(pixels):
            return
        for start in range(0, len(pixels), IMAGE_BATCH):
            part = slice(start, start + IMAGE_BATCH)
            vectors = self._image.run(None, {"pixels": pixels[part]})[0]
            if not self.artifact.preprocessing.core_crop:
                out[rows[part]] = vectors
            else:
                np.add.at(out, rows[part], vectors)
        if self.artifact.preprocessing.core_crop:
            lengths = np.linalg.norm(out[rows], axis=1, keepdims=True)
            out[rows] = out[rows] / np.maximum(lengths, np.float32(1e-6))

    def _require_weights(self) -> None:
        """Refuse a text model that reads weights beside a tokenizer that gives none, and the other way round."""
        if self._text is None:
            return
        asked = WEIGHTS in (each.name for each in self._text.get_inputs())
        given = getattr(self.artifact.tokenizer, WEIGHTS, None) is not None
        if asked != given:
            raise Misconfigured(
                f"{LAYOUT.text_model}: expected a tokenizer {'with' if asked else 'without'} weights, got one "
                f"{'with' if given else 'without'}; the files are of two encoders: export the artifact again"
            )

    def _run_texts(self, tokens: Tokens, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        if self._text is None:
            return
        # Rows of like length share a batch, so that one long description does not pad a hundred titles.
        ordered = rows if len(rows) <= TEXT_BATCH else rows[np.argsort(tokens.lengths[rows], kind="stable")]
        for start in range(0, len(ordered), TEXT_BATCH):
            chunk = ordered[start : start + TEXT_BATCH]
            out[chunk] = self._text.run(None, tokens.inputs(chunk))[0]
