"""Pictures made on the fly."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (80, 60), kind: str = "JPEG", mode: str = "RGB", **save: object) -> bytes:
    """An encoded picture of coarse noise; `save` goes to Pillow."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BILINEAR).convert(mode).save(file, kind, **save)
    return file.getvalue()
