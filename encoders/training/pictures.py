"""Pictures as a stage draws them: kept features of a frozen backbone, or pixels to augment and see. I pictures, W features."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.augment import augment_images
from encoders.towers import ImageTower
from encoders.vectors import unit


class Pictures(Protocol):
    """The pictures of a corpus."""

    def take(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> Tensor:
        """(B, ...) rows for `embed`: an augmented variant each, or the plain ones where `random` is None."""
        ...

    def embed(self, tower: ImageTower, taken: Tensor) -> Tensor:
        """(B, D) unit rows of what `take` gave."""
        ...

    def __len__(self) -> int: ...


class KeptFeatures:
    """Of a frozen backbone: (V + 1, I, W) float16, variant 0 plain, the others augmented once and for all.

    With `crops` the last variant is the picture's core region: it is seen beside whichever variant is drawn, as the runtime
    does with a picture.
    """

    def __init__(self, features: NDArray[np.float16], *, crops: bool = False) -> None:
        self.variants = features[:-1] if crops else features
        self.core = features[-1] if crops else None

    def __len__(self) -> int:
        return int(self.variants.shape[1])

    def take(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> Tensor:
        """As `Pictures`: (B, W), or (B, 2, W) with crops. The plain variant is drawn as often as another."""
        count = len(self.variants)
        views = np.zeros(len(rows), np.int64) if random is None else random.integers(count, size=len(rows))
        taken = self.variants[views, rows].astype(np.float32)
        if self.core is not None:
            taken = np.stack([taken, self.core[rows].astype(np.float32)], axis=1)
        return torch.from_numpy(taken)

    def embed(self, tower: ImageTower, taken: Tensor) -> Tensor:
        """As `Pictures`."""
        if taken.ndim == 2:
            return tower.project(taken)
        return unit(tower.project(taken[:, 0]) + tower.project(taken[:, 1]))


class Pixels:
    """For a backbone that trains: (I, S, S, 3) uint8, augmented at each draw.

    `cores` are the core regions, (I, side, side, 3) uint8, seen beside the picture and not augmented; None: no crops.
    """

    def __init__(self, pixels: NDArray[np.uint8], side: int, cores: NDArray[np.uint8] | None = None) -> None:
        self.pixels, self.cores = pixels, cores
        self.side = side

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> Tensor:
        """As `Pictures`: (B, 3, side, side), or (B, 2, 3, side, side) with crops."""
        generator = torch.Generator().manual_seed(0 if random is None else int(random.integers(2**62)))
        strength = 0.0 if random is None else 1.0
        seen = augment_images(torch.from_numpy(self.pixels[rows]), self.side, generator, strength=strength)
        if self.cores is None:
            return seen
        return torch.stack([seen, torch.from_numpy(self.cores[rows]).permute(0, 3, 1, 2).float() / 255.0], dim=1)

    def embed(self, tower: ImageTower, taken: Tensor) -> Tensor:
        """As `Pictures`."""
        if taken.ndim == 4:
            return tower(taken)
        return unit(tower(taken.flatten(0, 1)).unflatten(0, (-1, 2)).sum(dim=1))
