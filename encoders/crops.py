"""The core region of a picture: MOON encodes the product itself beside the whole picture. numpy and Pillow only, no torch.

MOON finds it with a grounding detector that reads the title (arXiv 2508.11999). None is shipped here: `BorderCropper` is a
stand-in that knows no products, only what differs from the picture's border. A real detector takes its place as a `Cropper`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: (top, left, bottom, right) in pixels; bottom and right are exclusive.
Box = tuple[int, int, int, int]
_GRID: Final = 64


class Cropper(Protocol):
    """Finds the product in a picture. Thread-safe."""

    def __call__(self, pixels: NDArray[np.uint8]) -> Box:
        """Box within (H, W, 3) uint8 pixels, not empty; the whole picture when unsure."""
        ...


@dataclass(frozen=True, slots=True)
class BorderCropper:
    """The smallest box found that holds most of what differs from the border in colour or has edges.

    Args:
        held: share of the saliency inside the box.
        margin: added on each side, as a share of the picture's side.
        smallest: least share of each side that a box spans.
        contrast: least spread of saliency, in grey levels of 255, below which nothing stands out.
        evenness: a box that holds no more than this share of saliency per share of area is no better than the whole picture.
    """

    held: float = 0.9
    margin: float = 0.04
    smallest: float = 0.3
    contrast: float = 12.0
    evenness: float = 1.15

    def __call__(self, pixels: NDArray[np.uint8]) -> Box:
        """As `Cropper`."""
        height, width = pixels.shape[:2]
        whole = (0, 0, height, width)
        if min(height, width) < 4:
            return whole
        small = _shrink(pixels)
        weight = _saliency(small)
        if float(np.quantile(weight, 0.98) - np.quantile(weight, 0.1)) < self.contrast:
            return whole
        # What is faint all over (noise, a gradient) must not weigh as much as the product.
        weight = np.maximum(weight - np.quantile(weight, 0.1) - 0.25 * self.contrast, 0.0)
        top, bottom = self._span(weight.sum(axis=1))
        left, right = self._span(weight.sum(axis=0))
        area = (bottom - top) * (right - left) / weight.size
        if weight[top:bottom, left:right].sum() / weight.sum() < self.evenness * area:
            return whole
        rows, columns = weight.shape
        y = self._stretch(top / rows, bottom / rows, height)
        x = self._stretch(left / columns, right / columns, width)
        return y[0], x[0], y[1], x[1]

    def _span(self, profile: NDArray[np.float32]) -> tuple[int, int]:
        """Shortest run of `profile` whose sum is the root of `held` of it; two such spans cross in `held`, roughly."""
        total = np.concatenate([[0.0], np.cumsum(profile, dtype=np.float64)])
        wanted = np.sqrt(self.held) * total[-1]
        ends = np.searchsorted(total, total[:-1] + wanted - 1e-9 * total[-1])
        starts = np.arange(len(profile))
        lengths = np.where(ends <= len(profile), ends - starts, len(profile) + 1)
        first = int(lengths.argmin())
        return first, int(ends[first])

    def _stretch(self, low: float, high: float, pixels: int) -> tuple[int, int]:
        """The span of shares with margin and least size, as pixels within the picture."""
        low, high = low - self.margin, high + self.margin
        lacking = max(self.smallest - (min(high, 1.0) - max(low, 0.0)), 0.0)
        low, high = max(low, 0.0) - lacking / 2, min(high, 1.0) + lacking / 2
        shift = max(-low, 0.0) - max(high - 1.0, 0.0)
        low, high = max(low + shift, 0.0), min(high + shift, 1.0)
        return int(np.floor(low * pixels + 1e-6)), int(np.ceil(high * pixels - 1e-6))


BORDER: Final[Cropper] = BorderCropper()


def core_crop(pixels: NDArray[np.uint8], size: tuple[int, int], *, cropper: Cropper = BORDER) -> NDArray[np.uint8]:
    """The core region of a picture, stretched.

    Args:
        pixels: (H, W, 3) uint8; best larger than `size`, or the crop is blurred.
        size: (h, w) of the result.
        cropper: finds the region.

    Returns:
        (h, w, 3) uint8.
    """
    top, left, bottom, right = cropper(pixels)
    part = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    return np.asarray(part.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.uint8)


def _shrink(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """At most `_GRID` cells a side: means, so that fine noise is not taken for edges."""
    height, width = (min(side, _GRID) for side in pixels.shape[:2])
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _saliency(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w): distance to the nearest of the four borders' usual colours, plus gradient energy, in grey levels."""
    ring = max(1, min(x.shape[:2]) // 20)
    borders = (x[:ring], x[-ring:], x[:, :ring], x[:, -ring:])
    usual = np.stack([np.median(part.reshape(-1, 3), axis=0) for part in borders])
    distance = np.sqrt(((x[:, :, None] - usual) ** 2).mean(axis=3)).min(axis=2)
    grey = x.mean(axis=2)
    down, across = np.gradient(grey)
    saliency: NDArray[np.float32] = (distance + np.hypot(down, across)).astype(np.float32)
    return saliency
