"""The files of an exported ranking model, and what its manifest says. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoders.artifact_folder import dump_object
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

FORMAT_VERSION: Final = 1
#: Ids a process can keep in a dictionary; the item table of a larger one would not fit an ONNX file either.
MAX_ITEMS: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Files:
    """Names in the folder."""

    manifest: str = "manifest.json"
    model: str = "model.onnx"
    vocabulary: str = "items.parquet"


FILES: Final = Files()


@dataclass(frozen=True, slots=True)
class Contract:
    """What a model was trained on, and so what it must be served.

    Args:
        model: id of the model, e.g. ``simtier``.
        service: name of the feature service.
        space: of the vectors.
        simtier: spec id of the tier counts; empty where there are none.
        tiers: N.
        length: L, newest behaviours the model reads.
        scalars: names in the order of the input ``scalars``.
        items: rows of the item table, row 0 included.
    """

    model: str
    service: str
    space: EmbeddingSpace
    simtier: str
    tiers: int
    length: int
    scalars: tuple[str, ...]
    items: int


def manifest_of(contract: Contract, *, opset: int, difference: float) -> dict[str, Any]:
    """Body of ``manifest.json`` without its digest; `difference`: the largest from torch that was measured at export."""
    space = contract.space
    return {
        "format_version": FORMAT_VERSION,
        "model": contract.model,
        "service": contract.service,
        "space": {
            "name": space.name, "version": space.version, "dim": space.dim, "encoder_digest": space.encoder_digest,
            "prefix_of": space.prefix_of,
        },
        "space_id": space.id,
        "simtier": contract.simtier,
        "tiers": contract.tiers,
        "length": contract.length,
        "scalars": list(contract.scalars),
        "items": contract.items,
        "opset": opset,
        "largest_difference_from_torch": difference,
    }  # fmt: skip


def contract_of(body: Mapping[str, Any], folder: Path) -> Contract:
    """Inverse of `manifest_of`.

    Raises:
        Misconfigured: another format, or a field that is missing or of another type.
    """
    if body.get("format_version") != FORMAT_VERSION:
        raise Misconfigured(
            f"ranking model {folder}: expected format_version {FORMAT_VERSION}, got {body.get('format_version')!r}; "
            "export it again"
        )
    try:
        space = EmbeddingSpace(**body["space"])
        scalars = tuple(str(name) for name in body["scalars"])
        texts = [str(body[key]) for key in ("model", "service", "simtier")]
        numbers = [int(body[key]) for key in ("tiers", "length", "items")]
    except (KeyError, TypeError, ValueError) as error:
        raise Misconfigured(f"ranking model {folder}: expected a manifest of its format, got none: {error!r}") from error
    return Contract(texts[0], texts[1], space, texts[2], numbers[0], numbers[1], scalars, numbers[2])


def digest_of(body: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """``sha256:<hex>`` over the manifest less its digest, and name, length and bytes of each file, in order of names."""
    total = hashlib.sha256(dump_object({key: value for key, value in body.items() if key != "digest"}))
    for name, data in sorted(files.items()):
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return f"sha256:{total.hexdigest()}"
