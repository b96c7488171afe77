"""Vectors of a catalog in one ``.npz``: how an encoder's codes reach the ranking trainer. No pickle is written or read."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

FIELDS: Final = ("item_ids", "codes", "scale", "space")
SPACE_FIELDS: Final = ("name", "version", "encoder_digest", "prefix_of")


def write_vectors(path: Path, vectors: Embeddings) -> None:
    """Write item_ids (N,) str, codes (N, D) int8, scale (N,) float32 and space, a JSON object of `SPACE_FIELDS`.

    Raises:
        ValueError: vectors without ids.
    """
    if vectors.ids is None:
        raise ValueError("write_vectors: expected ids, got none; use Embeddings.with_ids")
    space = json.dumps({name: getattr(vectors.space, name) for name in SPACE_FIELDS}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        np.savez_compressed(
            out, item_ids=np.array(vectors.ids, dtype=np.str_), codes=vectors.codes, scale=vectors.scale, space=np.array(space)
        )


def read_vectors(path: Path) -> Embeddings:
    """Read what `write_vectors` wrote.

    Raises:
        Misconfigured: no such file, a field is missing or has another type or shape, or an item is there twice.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            ids, codes, scale, space = (content[name] for name in FIELDS)
        described = json.loads(str(space))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise Misconfigured(f"{path}: expected an .npz with {list(FIELDS)}; {str(error)[:200]}") from error
    shapes_fit = codes.ndim == 2 and ids.shape == scale.shape == codes.shape[:1]
    if not shapes_fit or codes.dtype != np.int8 or scale.dtype != np.float32 or ids.dtype.kind != "U":
        got = ", ".join(f"{part.dtype} {part.shape}" for part in (ids, codes, scale))
        raise Misconfigured(f"{path}: expected item_ids (N,) str, codes (N, D) int8, scale (N,) float32, got {got}")
    repeats = len(ids) - len(np.unique(ids))
    if repeats:
        raise Misconfigured(f"{path}: expected each item once, got {repeats} repeats; write one row an item")
    if not isinstance(described, dict) or set(described) != set(SPACE_FIELDS):
        raise Misconfigured(f"{path}: expected space with {list(SPACE_FIELDS)}, got {str(described)[:200]}")
    return Embeddings.from_codes(EmbeddingSpace(dim=codes.shape[1], **described), codes, scale, ids=ids.tolist())
