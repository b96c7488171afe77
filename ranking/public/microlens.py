"""MicroLens_1M_MMCTR in the layout of the WWW 2025 challenge and of its baseline's loader (reczoo/WWW2025_MMCTR_Challenge).

``DIR/MicroLens_1M_x1/train.parquet`` and ``valid.parquet``: ``user_id``, ``item_id``, ``item_seq`` (padded with 0 in front,
newest last), ``likes_level``, ``views_level``, ``label``; ``item_info.parquet``: ``item_id``, ``item_emb_d128`` (row 0 is
padding). DIR may be that folder itself. ``test.parquet`` has no labels, the challenge kept them: ``valid.parquet`` is the test
part here. ``item_seq.parquet`` and ``item_emb.parquet`` of the download are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from ranking.public import files
from ranking.public.blocks import Block, Ints, Rows, block_of, users_of
from ranking.public.convert import Source

NAME: Final = "microlens"
SPACE: Final = EmbeddingSpace("microlens", 1, 128)
SCALARS: Final = ("likes_level", "views_level")
_FOLDER: Final = "MicroLens_1M_x1"
_PARTS: Final = {"train": "train.parquet", "test": "valid.parquet"}
_COLUMNS: Final = ("user_id", "item_id", "item_seq", "label", *SCALARS)


def source(data: Path, *, users: int, spec: SimTierSpec) -> Source:
    """The data set as `convert` takes it.

    Args:
        data: DIR.
        users: percent of the users (`users_of`).
        spec: of the tiers, in `SPACE`.

    Raises:
        Misconfigured: files are missing. Columns are checked when they are read.
    """
    folder = data / _FOLDER if (data / _FOLDER).is_dir() else data
    paths = {part: files.existing(folder / name, what=f"the challenge's {name}") for part, name in _PARTS.items()}
    info = files.existing(folder / "item_info.parquet", what="the challenge's item_info.parquet")
    said: dict[str, Any] = {
        "users_percent": users,
        "users_rule": "(user & 0x7FFFFFFF) % 100 < percent",
        "test_part": "valid.parquet",
    }
    said["files"] = files.facts([*paths.values(), info], folder)
    blocks = partial(_blocks, paths, users=users, length=spec.length)
    return Source(NAME, blocks, partial(_vectors, info), SPACE, spec, SCALARS, said)


def _blocks(paths: dict[str, Path], *, users: int, length: int) -> Iterator[Block]:
    for part, path in paths.items():
        for found in files.batches(path, _COLUMNS):
            batch = found.filter(users_of(files.integers(found, "user_id", path), users))
            if not batch.num_rows:
                continue
            label = files.floats(batch, "label", path)
            if not np.isin(label, (0, 1)).all():
                raise Misconfigured(f"{path}: label: expected 0 or 1, got {label[~np.isin(label, (0, 1))][0]}")
            history, offsets = files.lists(batch, "item_seq", path)
            rows = Rows(
                files.integers(batch, "user_id", path), files.integers(batch, "item_id", path), label, history, offsets,
                {name: files.floats(batch, name, path) for name in SCALARS},
            )  # fmt: skip
            yield block_of(rows, part, length=length)


def _vectors(path: Path) -> Iterator[tuple[Ints, Embeddings]]:
    for batch in files.batches(path, ("item_id", "item_emb_d128")):
        vectors = files.matrix(batch, "item_emb_d128", path, SPACE.dim)
        if not np.isfinite(vectors).all():
            raise Misconfigured(f"{path}: item_emb_d128: expected finite values, got others; download it again")
        yield files.integers(batch, "item_id", path), Embeddings.from_float(SPACE, vectors)
