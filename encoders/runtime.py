"""Items in, canonical vectors out: tokenising and decoding first, then the towers, then the fusion. No torch.

B items, I of them with an image, T with text, H x W the image size, D the space's dim.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from encoders.artifact import LAYOUT, Artifact, load_artifact
from encoders.images import ImageLoader, decode
from encoders.item import Item, Reason, Reject, Unencodable, hash_content
from encoders.tokenizer import Tokenizer, Tokens
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

IMAGE_BATCH = 32
TEXT_BATCH = 256

#: Content hash and pixels of an item, or why it cannot be encoded.
Loaded = tuple[str, NDArray[np.uint8] | None] | Unencodable
#: Called with an item's row, and False before or True after it is read and decoded; from any thread.
Progress = Callable[[int, bool], None]


def no_progress(row: int, done: bool) -> None:
    """The `Progress` of whoever does not ask."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Items ready for the model: no I/O and no decoding is left to do.

    Attributes:
        ids: (B,) the items that can be encoded, in their order.
        content_hashes: (B,) 32 hex digits each.
        pixels: (I, H, W, 3) uint8.
        image_rows: (I,) int64, the row of each image.
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


class Encoder:
    """A trained encoder. Thread-safe; build one per process, after a fork, never before."""

    def __init__(self, artifact: Artifact, *, threads: int | None = None, images: ImageLoader | None = None) -> None:
        """Use `Encoder.load`."""
        limits = artifact.preprocessing
        loader = images or ImageLoader()
        self.artifact = artifact
        self._images = replace(loader, max_bytes=min(loader.max_bytes, limits.max_bytes),
                               max_pixels=min(loader.max_pixels, limits.max_pixels))  # fmt: skip
        self._tokenizer = Tokenizer(artifact.tokenizer)
        self._threads = threads or len(os.sched_getaffinity(0))
        self._image, self._text, self._fusion = (_session(artifact.files[name], self._threads, name) for name in LAYOUT.models)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None, images: ImageLoader | None = None) -> Encoder:
        """Load an artifact directory.

        Args:
            path: the directory.
            threads: of the model and of image decoding together; None: every core this process may use.
            images: where images may be read from; None: only bytes inside the items.

        Raises:
            Misconfigured: the artifact is incomplete, changed, or refused.
        """
        return cls(load_artifact(path), threads=threads, images=images)

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector this encoder makes."""
        return self.artifact.manifest.space

    def encode(self, items: Sequence[Item]) -> Embeddings:
        """(B, D) vectors of B >= 0 items, with their ids, in order.

        A row depends on its own item only, up to float noise: the same item in another batch can differ by one
        unit in a code of a few rows in a thousand.

        Raises:
            Unencodable: the first item that cannot be encoded; a `Poison` with its `reason`.
            Transient: an object store failed.
        """
        prepared = self.prepare(items)
        if prepared.rejects:
            first = prepared.rejects[0]
            raise Unencodable(first.reason, f"item {first.item_id[:80]!r}: {first.detail}; reject it and go on")
        return self.run(prepared)

    def encode_or_reject(self, items: Sequence[Item]) -> tuple[Embeddings, list[Reject]]:
        """Vectors of the items that can be encoded, in order, and the others as values.

        Raises:
            Transient: an object store failed; nothing is known about the items then.
        """
        prepared = self.prepare(items)
        return self.run(prepared), list(prepared.rejects)

    def content_hash(self, item: Item) -> str:
        """32 hex digits that change when the item's content does; reads the image, and does not decode it.

        Raises:
            Unencodable: the image cannot be read.
            Transient: an object store failed.
        """
        return hash_content(item, None if item.image is None else self._images.read(item.image))

    def prepare(self, items: Sequence[Item], *, progress: Progress = no_progress) -> Prepared:
        """Read and decode images, tokenise text, hash content. CPU and I/O only: overlaps with `run` in a thread.

        Args:
            items: B >= 0 items.
            progress: told of each item, so that whoever watches knows the one that a decoder dies of.

        Raises:
            Transient: an object store failed.
        """
        loaded = self._load_all(items, progress)
        tokens = self._tokenizer([_without_long_title(item, self._title_limit) for item in items])
        good, rejects = [], []
        for row, (item, result) in enumerate(zip(items, loaded, strict=True)):
            if isinstance(result, Unencodable):
                rejects.append(Reject(item.item_id, result.reason, result.detail))
            elif result[1] is None and tokens.lengths[row] == 0:
                rejects.append(Reject(item.item_id, Reason.NO_CONTENT, "expected an image, or text with a letter"))
            else:
                good.append(row)
        parts = [loaded[row] for row in good]
        kept = [part for part in parts if not isinstance(part, Unencodable)]
        image_rows = np.array([at for at, part in enumerate(kept) if part[1] is not None], np.int64)
        pixels = [part[1] for part in kept if part[1] is not None]
        size = (self.artifact.preprocessing.height, self.artifact.preprocessing.width, 3)
        return Prepared(
            tuple(items[row].item_id for row in good),
            tuple(part[0] for part in kept),
            np.stack(pixels) if pixels else np.zeros((0, *size), np.uint8),
            image_rows,
            tokens.take(np.array(good, np.int64)),
            tuple(rejects),
        )

    def run(self, prepared: Prepared) -> Embeddings:
        """The model alone, and one quantisation of what it gives."""
        return Embeddings.from_float(self.space, self.floats(prepared), ids=prepared.ids)

    def floats(self, prepared: Prepared) -> NDArray[np.float32]:
        """(B, D) before quantisation: each tower on the rows that have its modality, then the fusion.

        For measuring what quantisation costs; whatever is stored or compared comes from `run`.
        """
        count, dim = len(prepared), self.space.dim
        if not count:
            return np.zeros((0, dim), np.float32)
        towers = np.zeros((2, count, dim), np.float32)
        present = np.zeros((count, 2), np.float32)
        towers[0, prepared.image_rows] = self._run_images(prepared.pixels)
        present[prepared.image_rows, 0] = 1.0
        text_rows = np.flatnonzero(prepared.tokens.lengths)
        self._run_texts(prepared.tokens, text_rows, towers[1])
        present[text_rows, 1] = 1.0
        (vectors,) = self._fusion.run(None, {"image": towers[0], "text": towers[1], "present": present})
        return np.asarray(vectors, np.float32)

    @property
    def _title_limit(self) -> int:
        return self.artifact.preprocessing.title_max_chars

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
            if item.title is not None and len(item.title) > self._title_limit:
                raise Unencodable(
                    Reason.TITLE_TOO_LONG, f"expected at most {self._title_limit} characters, got {len(item.title)}"
                )
            if item.image is None:
                return hash_content(item, None), None
            data = self._images.read(item.image)
            size = (self.artifact.preprocessing.height, self.artifact.preprocessing.width)
            return hash_content(item, data), decode(data, size, max_pixels=self._images.max_pixels)
        except Unencodable as error:
            return error

    def _run_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [
            self._image.run(None, {"pixels": pixels[start : start + IMAGE_BATCH]})[0]
            for start in range(0, len(pixels), IMAGE_BATCH)
        ]
        return np.concatenate([np.zeros((0, self.space.dim), np.float32), *parts])

    def _run_texts(self, tokens: Tokens, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        # Rows of like length share a batch, so that one long description does not pad a hundred titles.
        ordered = rows[np.argsort(tokens.lengths[rows], kind="stable")]
        for start in range(0, len(ordered), TEXT_BATCH):
            chunk = ordered[start : start + TEXT_BATCH]
            ids, kinds = tokens.padded(chunk)
            out[chunk] = self._text.run(None, {"ids": ids, "kinds": kinds})[0]


def _session(model: bytes, threads: int, name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning workers would take the cores that decoding, Kafka or the ranker need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.InvalidGraph) as error:
        raise Misconfigured(f"{name}: onnxruntime cannot run it ({str(error)[:200]}); export it again") from error


def _without_long_title(item: Item, limit: int) -> Item:
    return item if item.title is None or len(item.title) <= limit else replace(item, title=None)
