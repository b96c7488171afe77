"""The kinds of artifact there are, opened without asking which: a MOON encoder, or an item tower."""

from __future__ import annotations

import os
from typing import Any

from encoders.artifact import Artifact, load_artifact
from encoders.base import ItemEncoder
from encoders.content import WHOLE_CONTENT, ContentReader
from encoders.images import ImageLoader
from encoders.tower_artifact import TowerArtifact, is_tower, load_tower
from encoders.variants import Wanted, require_precision

AnyArtifact = Artifact | TowerArtifact


def load_any(path: str | os.PathLike[str]) -> AnyArtifact:
    """Read an artifact of any kind and check its digest.

    Raises:
        Misconfigured: a file is missing or malformed, the digest differs, or a model is refused.
    """
    return load_tower(path) if is_tower(path) else load_artifact(path)


def open_any(
    artifact: AnyArtifact, *, threads: int | None = None, images: ImageLoader | None = None, precision: Wanted = "fp32"
) -> ItemEncoder[Any]:
    """The encoder of an artifact; arguments as `encoders.Encoder.load`. A tower opens no image and has one precision.

    Raises:
        Misconfigured: the artifact is refused, or the precision cannot run here.
    """
    if isinstance(artifact, TowerArtifact):
        from encoders.item_tower import ItemTower

        return ItemTower(artifact, threads=threads or 1)
    from encoders.runtime import Encoder

    return Encoder(artifact, threads=threads, images=images, precision=precision)


def require_runnable(artifact: AnyArtifact, precision: Wanted) -> None:
    """Refuse a precision that this machine, or this artifact, does not have.

    Raises:
        Misconfigured: as `encoders.variants.require_precision`; never for a tower.
    """
    if isinstance(artifact, Artifact):
        require_precision(artifact, precision)


def reader_of(path: str | os.PathLike[str]) -> ContentReader:
    """What of an item the vectors of an artifact's space depend on. Of a MOON encoder nothing but the manifest is read.

    Raises:
        Misconfigured: as `load_any`.
    """
    return load_tower(path).inputs if is_tower(path) else WHOLE_CONTENT
