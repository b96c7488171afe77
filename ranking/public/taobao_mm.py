"""TAOBAO-MM in the layout of its release and of MUSE's loader (arXiv 2512.07216; alimama-tech/MUSE, ``utils/muse_dataset.py``).

``DIR/train/train-shard-*.parquet`` and ``DIR/test/test-shard-*.parquet``: ``label_0`` list<int8> (one-hot: not clicked,
clicked), ``129_1`` user, ``205`` item, ``150_2_180`` list<int64> (up to 1,000 items, newest last). Vectors (SCL, 128-d int8,
``trunc(127 v)``) are ``scl_emb_int8_p90_keys.npy`` (rising int64) and ``scl_emb_int8_p90_values.npy`` in ``DIR/feature_map``,
or ``scl_embedding_int8_p90.parquet`` (``205``, ``205_c``) in ``DIR`` or ``DIR/raw``.

The loader's other fields, user profile ``130_*`` and categories ``206``, ``213``, ``214``, ``151_2_180``, are not read: rankers
here know ids, vectors, tiers and scalars.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from ranking.public import files
from ranking.public.blocks import Block, Ints, Rows, block_of, users_of
from ranking.public.convert import Source

NAME: Final = "taobao-mm"
SPACE: Final = EmbeddingSpace("scl", 1, 128)
SCALARS: Final = ()
_COLUMNS: Final = ("label_0", "129_1", "205", "150_2_180")
_KEYS, _VALUES, _TABLE = "scl_emb_int8_p90_keys.npy", "scl_emb_int8_p90_values.npy", "scl_embedding_int8_p90.parquet"
_VECTOR_ROWS: Final = 65_536


def source(data: Path, *, users: int, spec: SimTierSpec) -> Source:
    """The data set as `convert` takes it.

    Args:
        data: DIR.
        users: percent of the users (`users_of`), chosen while reading.
        spec: of the tiers, in `SPACE`.

    Raises:
        Misconfigured: files are missing. Columns are checked when they are read.
    """
    shards = {part: _shards(data, part) for part in ("train", "test")}
    vectors = _vector_files(data)
    said: dict[str, Any] = {"users_percent": users, "users_rule": "(user & 0x7FFFFFFF) % 100 < percent"}
    said["files"] = files.facts([*shards["train"], *shards["test"], *filter(None, vectors)], data)
    blocks = partial(_blocks, shards, users=users, length=spec.length)
    return Source(NAME, blocks, partial(_vectors, *vectors), SPACE, spec, SCALARS, said)


def _shards(data: Path, part: str) -> list[Path]:
    found = sorted(files.existing(data / part, what=f"the {part} shards").glob(f"{part}-shard-*.parquet"))
    if not found:
        raise Misconfigured(f"{data / part}: expected {part}-shard-*.parquet, got none; join the raw files as the release does")
    return found


def _blocks(shards: dict[str, list[Path]], *, users: int, length: int) -> Iterator[Block]:
    for part, paths in shards.items():
        for path in paths:
            for found in files.batches(path, _COLUMNS):
                batch = found.filter(users_of(files.integers(found, "129_1", path), users))
                if not batch.num_rows:
                    continue
                label = files.matrix(batch, "label_0", path, 2)[:, 1]
                history, offsets = files.lists(batch, "150_2_180", path)
                user, item = files.integers(batch, "129_1", path), files.integers(batch, "205", path)
                yield block_of(Rows(user, item, label, history, offsets, {}), part, length=length)


def _vector_files(data: Path) -> tuple[Path, Path | None]:
    """The keys and values of the feature map, or the Parquet table."""
    keys = data / "feature_map" / _KEYS
    if keys.exists():
        return keys, files.existing(keys.with_name(_VALUES), what="the values of those keys")
    for table in (data / _TABLE, data / "raw" / _TABLE):
        if table.exists():
            return table, None
    raise Misconfigured(f"{data}: expected feature_map/{_KEYS}, {_TABLE} or raw/{_TABLE}, got none; download the SCL vectors")


def _vectors(first: Path, values: Path | None) -> Iterator[tuple[Ints, Embeddings]]:
    if values is None:
        for batch in files.batches(first, ("205", "205_c"), rows=_VECTOR_ROWS):
            yield (
                files.integers(batch, "205", first),
                _embeddings(files.matrix(batch, "205_c", first, SPACE.dim, np.int16), first),
            )
        return
    keys, codes = _mapped(first, np.int64, 1), _mapped(values, np.int8, 2)
    if codes.shape != (len(keys), SPACE.dim):
        raise Misconfigured(f"{values}: expected shape {(len(keys), SPACE.dim)}, got {codes.shape}; download both files again")
    for at in range(0, len(keys), _VECTOR_ROWS):
        rows = slice(at, at + _VECTOR_ROWS)
        yield np.asarray(keys[rows]), _embeddings(codes[rows], values)


def _mapped(path: Path, kind: type[np.integer], dims: int) -> NDArray[np.integer]:
    try:
        found: NDArray[np.integer] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Misconfigured(f"{path}: expected an array in NumPy's format, got: {error}; download it again") from error
    if found.dtype != kind or found.ndim != dims:
        raise Misconfigured(f"{path}: expected {np.dtype(kind)} in {dims} dimensions, got {found.dtype} in {found.ndim}")
    return found


def _embeddings(codes: NDArray[np.integer], path: Path) -> Embeddings:
    """Released codes as ours: ``trunc(127 v)``, so the scale is 1/127; a row of zeros is no vector."""
    if len(codes) and (codes.min() < -127 or codes.max() > 127):
        raise Misconfigured(f"{path}: expected codes in -127..127, got {codes.min()} to {codes.max()}; download it again")
    scale = np.where(codes.any(axis=1), np.float32(1 / 127), np.float32(0)).astype(np.float32)
    return Embeddings.from_codes(SPACE, np.ascontiguousarray(codes, np.int8), scale)
