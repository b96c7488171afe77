"""Shared fixtures: the shipped artifact, pictures made on the fly, and a tiny model for tests that write artifacts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from encoders import Encoder

if TYPE_CHECKING:
    from encoders.export import Exported

ARTIFACT = Path(__file__).parents[3] / "artifacts" / "moon_v1"

MakeImage = Callable[..., bytes]


@pytest.fixture(scope="session")
def artifact_path() -> Path:
    return ARTIFACT


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder.load(ARTIFACT, threads=1)


@pytest.fixture(scope="session")
def tiny_export() -> Exported:
    """A tiny image encoder with its int8 variant, exported once: the exporter takes seconds."""
    from . import tiny_artifact

    return tiny_artifact.exported()


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    def make(seed: int = 0, size: tuple[int, int] = (80, 60), kind: str = "JPEG", mode: str = "RGB", **save: object) -> bytes:
        random = np.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize(size, Image.Resampling.BILINEAR).convert(mode).save(file, kind, **save)
        return file.getvalue()

    return make
