"""Shared fixtures: the shipped artifact, pictures made on the fly, a tiny model for tests that write artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from encoders import Encoder
from tests.pictures import picture

if TYPE_CHECKING:
    from encoders.export import Exported

ARTIFACT = Path(__file__).parents[3] / "artifacts" / "moon_v2"

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
    return picture
