"""Items made ready for the model: images read and decoded, text tokenised, content hashed. No model, no torch.

B items, I pictures, H x W their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoders.artifact import LAYOUT, Artifact
from encoders.base import Progress
from encoders.images import ImageLoader, decode_sizes
from encoders.item import Item, Reason, Reject, Unencodable, hash_content
from encoders.terms import TermTable
from encoders.tokenizer import Tokenizer, TokenizerConfig, Tokens

#: Content hash and pictures of an item, the whole and its core where the model wants it, or why it cannot be encoded.
Loaded = tuple[str, tuple[NDArray[np.uint8], ...]] | Unencodable


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Items ready for the model: no I/O and no decoding is left to do.

    Attributes:
        ids: (B,) the items that can be encoded, in their order.
        content_hashes: (B,) 32 hex digits each.
        pixels: (I, H, W, 3) uint8; an item whose core is encoded too has two, one after the other.
        image_rows: (I,) int64, the row of each image, rising.
        tokens: B rows; a row without text is empty.
        rejects: the items left out.
    """

    ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    pixels: NDArray[np.uint8]
    image_rows: NDArray[np.int64]
    tokens: Tokens
    rejects: tuple[Reject, ...]

    def __len__(self) -> int:
        return len(self.ids)


class Preparer:
    """What an artifact says of preprocessing, applied to items. Thread-safe.

    Args:
        artifact: whose preprocessing and tokenizer are used; a tower it lacks needs no pictures, or no tokens.
        images: where images may be read from, within the artifact's limits.
        threads: that decode pictures.
    """

    def __init__(self, artifact: Artifact, images: ImageLoader, *, threads: int) -> None:
        limits = artifact.preprocessing
        self.images = replace(images, max_bytes=min(images.max_bytes, limits.max_bytes),
                              max_pixels=min(images.max_pixels, limits.max_pixels))  # fmt: skip
        self._settings = limits
        self._reads_images = LAYOUT.image_model in artifact.files
        self._reads_text = LAYOUT.text_model in artifact.files
        self._tokenizer = _tokenizer(artifact)
        self._threads = threads

    def __call__(self, items: Sequence[Item], progress: Progress) -> Prepared:
        """As `Encoder.prepare`."""
        loaded = self._load_all(items, progress)
        tokens = self._tokenizer([_without_long_title(item, self._settings.title_max_chars) for item in items])
        lengths = tokens.lengths
        good, rejects = [], []
        for row, (item, result) in enumerate(zip(items, loaded, strict=True)):
            if isinstance(result, Unencodable):
                rejects.append(Reject(item.item_id, result.reason, result.detail))
            elif not result[1] and lengths[row] == 0:
                rejects.append(self._nothing_to_read(item))
            else:
                good.append(row)
        parts = [loaded[row] for row in good]
        kept = [part for part in parts if not isinstance(part, Unencodable)]
        image_rows = np.repeat(np.arange(len(kept)), [len(part[1]) for part in kept]).astype(np.int64)
        pixels = [picture for part in kept for picture in part[1]]
        size = (self._settings.height, self._settings.width, 3)
        return Prepared(
            tuple(items[row].item_id for row in good),
            tuple(part[0] for part in kept),
            np.stack(pixels) if pixels else np.zeros((0, *size), np.uint8),
            image_rows,
            tokens.take(np.array(good, np.int64)),
            tuple(rejects),
        )

    def _load_all(self, items: Sequence[Item], progress: Progress) -> list[Loaded]:
        def load(row: int) -> Loaded:
            progress(row, False)
            loaded = self._load(items[row])
            progress(row, True)
            return loaded

        pictured = [row for row, item in enumerate(items) if item.image is not None]
        if self._threads == 1 or len(pictured) < 2:
            return [load(row) for row in range(len(items))]
        # Hashing a title is shorter than handing it to a thread; only pictures go to the pool.
        with ThreadPoolExecutor(self._threads) as pool:
            decoded = pool.map(load, pictured)
            return [load(row) if item.image is None else next(decoded) for row, item in enumerate(items)]

    def _load(self, item: Item) -> Loaded:
        """Content hash and pixels of one item, or why it cannot be encoded."""
        try:
            if item.title is not None and len(item.title) > self._settings.title_max_chars:
                raise Unencodable(
                    Reason.TITLE_TOO_LONG, f"expected at most {self._settings.title_max_chars} characters, got {len(item.title)}"
                )
            if item.image is None:
                return hash_content(item, None), ()
            data = self.images.read(item.image)
            return hash_content(item, data), self._decode(data)
        except Unencodable as error:
            return error

    def _decode(self, data: bytes) -> tuple[NDArray[np.uint8], ...]:
        """The whole picture, and its core where the model wants it; nothing where it reads no pictures."""
        if not self._reads_images:
            return ()
        wanted = self._settings
        size, limit = (wanted.height, wanted.width), self.images.max_pixels
        if not wanted.core_crop:
            return decode_sizes(data, (size,), max_pixels=limit)
        from encoders.crops import core_crop

        whole, larger = decode_sizes(data, (size, (2 * size[0], 2 * size[1])), max_pixels=limit)
        return whole, core_crop(larger, size)

    def _nothing_to_read(self, item: Item) -> Reject:
        reads = [name for name, there in (("images", self._reads_images), ("text", self._reads_text)) if there]
        if (item.image is not None and not self._reads_images) or (item.has_text and not self._reads_text):
            detail = f"this encoder reads {' and '.join(reads)} only, and the item has none"
            return Reject(item.item_id, Reason.MODALITY_UNSUPPORTED, detail)
        return Reject(item.item_id, Reason.NO_CONTENT, "expected an image, or text with a letter")


def _tokenizer(artifact: Artifact) -> Callable[[Sequence[Item]], Tokens]:
    """What turns texts into the inputs of the artifact's text tower."""
    if LAYOUT.text_model not in artifact.files:
        return _no_tokens
    config, files = artifact.tokenizer, artifact.files
    if isinstance(config, TokenizerConfig):
        return Tokenizer(config, TermTable.from_bytes(files[LAYOUT.terms]) if LAYOUT.terms in files else None)
    from encoders.hf_tokenizer import build_tokenizer

    return build_tokenizer(config, files.get(LAYOUT.vocabulary))


def _no_tokens(items: Sequence[Item]) -> Tokens:
    return Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(len(items) + 1, np.int64))


def _without_long_title(item: Item, limit: int) -> Item:
    return item if item.title is None or len(item.title) <= limit else replace(item, title=None)
