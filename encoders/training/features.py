"""Features of a frozen backbone, computed once for each picture and augmented view and kept on disk.

I pictures, V views, W features, S the backbone's side.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.augment import augment_images
from encoders.crops import core_crop
from encoders.images import decode, decode_sizes
from moontide.errors import Misconfigured, Transient
from moontide.stores.offline_files import write_whole

FORMAT: Final = b"moontide-features-1"
#: Views are cut from pictures this much larger than the backbone's side, so that a crop of them is still sharp.
ROOM: Final = 1.25
_DIGEST_BYTES: Final = 16
#: Batches decoded ahead of the backbone.
_AHEAD: Final = 3

Image = bytes | Callable[[], bytes]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Frozen:
    """A backbone that no longer trains.

    Args:
        features: (B, 3, S, S) float32 in 0..1 -> (B, W), in eval mode, the same for a picture in any batch.
        digest: of its weights and of everything else that decides its features.
        device: where `features` wants its input.
    """

    features: Callable[[Tensor], Tensor]
    digest: str
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Views:
    """What is computed of each picture: view 0 is the plain picture, 1..V are augmented; then, if asked for, its core crop.

    Args:
        side: S.
        views: V.
        seed: of the augmentation.
        crops: add one plain view of the core region, the last row; see `encoders.crops`.
    """

    side: int
    views: int
    seed: int = 0
    crops: bool = False

    @property
    def count(self) -> int:
        """Rows per picture: 1 + V, and 1 for the crop."""
        return 1 + self.views + self.crops


@dataclass(frozen=True, slots=True, eq=False)
class CachedFeatures:
    """`features` is (views.count, I, W) float16, a memory map where it is on disk; `fresh` if it was computed just now."""

    features: NDArray[np.float16]
    fresh: bool

    @classmethod
    def build(
        cls, images: Sequence[Image], backbone: Frozen, views: Views, *, cache: Path | None = None, batch: int = 32,
        threads: int = 2, say: Say | None = None,
    ) -> CachedFeatures:  # fmt: skip
        """Read from `cache`, or compute and, where it is given, write there.

        A picture's views follow from its bytes and the seed, whatever the order of work or its place in the list. A batch of
        another size may change the last bits of what the backbone computes.

        Args:
            images: I files' bytes, or functions that give them; those are called twice.
            cache: a folder; a file's name is a digest of all that decides its content.
            batch: pictures the backbone sees at once. threads: that decode and augment. say: told of progress every 5 s.

        Raises:
            Unencodable: a picture cannot be decoded.
            Misconfigured: the backbone gave something other than (B, W) finite rows.
            Transient: the cache could not be written.
        """
        if cache is None:
            return cls(_compute(images, backbone, views, batch, threads, say), fresh=True)
        path = cache / f"features-{_key(images, backbone, views)}.npy"
        kept = _read(path, (views.count, len(images)))
        if kept is not None:
            return cls(kept, fresh=False)
        features = _compute(images, backbone, views, batch, threads, say)
        _write(path, features)
        return cls(features, fresh=True)


def _key(images: Sequence[Image], backbone: Frozen, views: Views) -> str:
    parts = json.dumps([len(images), backbone.digest, views.side, views.views, views.seed, views.crops])
    digest = hashlib.blake2b(FORMAT + parts.encode(), digest_size=_DIGEST_BYTES)
    for image in images:
        digest.update(hashlib.blake2b(image if isinstance(image, bytes) else image(), digest_size=_DIGEST_BYTES).digest())
    return digest.hexdigest()


def _variants(image: Image, views: Views) -> Tensor:
    """(views.count, 3, S, S) float32 of one picture."""
    data, side = image if isinstance(image, bytes) else image(), views.side
    if views.crops:
        # Both of one decoding, as the runtime does: a JPEG decoded at another scale has other pixels.
        whole_view, larger_view = decode_sizes(data, ((side, side), (2 * side, 2 * side)))
        plain = [whole_view, core_crop(larger_view, (side, side))]
    else:
        plain = [decode(data, (side, side))]
    rows = [torch.from_numpy(np.stack(plain)).permute(0, 3, 1, 2).float() / 255.0]
    if views.views:
        seed = hashlib.blake2b(data, digest_size=7, key=str(views.seed).encode()).digest()
        random = torch.Generator().manual_seed(int.from_bytes(seed, "little"))
        larger = torch.from_numpy(decode(data, (round(ROOM * side),) * 2).copy()).expand(views.views, -1, -1, -1)
        rows.insert(1, augment_images(larger, side, random))
    whole, *rest = rows
    return torch.cat([whole[:1], *rest, whole[1:]])


def _compute(
    images: Sequence[Image], backbone: Frozen, views: Views, batch: int, threads: int, say: Say | None
) -> NDArray[np.float16]:
    features: NDArray[np.float16] | None = None
    progress = _Progress(len(images), say)
    for first, pixels in _ahead(images, views, batch, threads):
        rows = _see(backbone, pixels)
        if features is None:
            features = np.empty((views.count, len(images), rows.shape[1]), np.float16)
        elif rows.shape[1] != features.shape[2]:
            raise Misconfigured(f"backbone: expected {features.shape[2]} features as before, got {rows.shape[1]}")
        count = len(rows) // views.count
        features[:, first : first + count] = rows.reshape(count, views.count, -1).transpose(1, 0, 2)
        progress.add(count)
    if features is None:
        width = _see(backbone, torch.zeros(1, 3, views.side, views.side)).shape[1]
        features = np.zeros((views.count, 0, width), np.float16)
    return features


def _see(backbone: Frozen, pixels: Tensor) -> NDArray[np.float16]:
    """(N, W) float16 of (N, 3, S, S)."""
    with torch.no_grad():
        rows = backbone.features(pixels.to(backbone.device)).cpu().numpy()
    if rows.ndim != 2 or len(rows) != len(pixels):
        raise Misconfigured(f"backbone: expected ({len(pixels)}, W) features, got {rows.shape}")
    # Beyond float16 a feature would turn into infinity without a word.
    if not (np.abs(rows) <= np.finfo(np.float16).max).all():
        raise Misconfigured("backbone: expected finite features within float16, got others; check its weights")
    return rows.astype(np.float16)


def _ahead(images: Sequence[Image], views: Views, batch: int, threads: int) -> Iterator[tuple[int, Tensor]]:
    """First picture and (N * views.count, 3, S, S) of each batch, in order; the next ones are decoded meanwhile."""
    size = max(batch // views.count, 1)
    starts = iter(range(0, len(images), size))
    waiting: deque[tuple[int, list[Future[Tensor]]]] = deque()
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        try:
            while True:
                while len(waiting) < _AHEAD and (first := next(starts, None)) is not None:
                    group = images[first : first + size]
                    waiting.append((first, [pool.submit(_variants, image, views) for image in group]))
                if not waiting:
                    return
                first, futures = waiting.popleft()
                yield first, torch.cat([future.result() for future in futures])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Progress:
    def __init__(self, total: int, say: Say | None) -> None:
        self.total, self.say, self.done = total, say, 0
        self.started = self.told = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.say is None or (now - self.told < 5.0 and self.done < self.total):
            return
        self.told = now
        speed = self.done / max(now - self.started, 1e-9)
        self.say(f"features {self.done}/{self.total} pictures, {speed:.0f}/s, {(self.total - self.done) / speed:.0f} s left")


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float16] | None:
    """The array of a cache whose checksum is right; None: there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != path.with_suffix(".sha256").read_text(encoding="ascii"):
            return None
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.dtype == np.float16 and array.ndim == 3 and array.shape[:2] == shape else None


def _write(path: Path, features: NDArray[np.float16]) -> None:
    memory = io.BytesIO()
    np.save(memory, features, allow_pickle=False)
    data = memory.getvalue()
    checksum = hashlib.sha256(data).hexdigest().encode("ascii")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The checksum comes last: without it, or with an older one, the array is not believed.
        for target, content in ((path, data), (path.with_suffix(".sha256"), checksum)):
            write_whole(target, content)
    except OSError as error:
        raise Transient(
            f"feature cache {path}: expected to write it, got {error}; make room, or choose another folder"
        ) from error
