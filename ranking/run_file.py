"""One trained model's outcome on disk: figures for people and programs as JSON, and its test logits for pairing and resampling.

``NAME.json``: ``format_version``; ``settings`` (model, space, length, variant, seed, digest of the configuration and all else
that decides the outcome); ``card`` of the data; ``curve``: a list of ``epoch``, ``train_loss`` and ``validation`` (`headline`);
``test`` (`evaluate`); ``recalibrated`` (`recalibration.recalibrated`; not in every file); ``seconds``; ``rows``: ``digest`` and
``count`` of the test impressions. ``NAME.npz``: ``logits`` (I,) f4.

The test impressions are the same for every model of a comparison, so they are in one file, ``rows-<digest>.npz``: ``user`` and
``item`` (I,) i4, ``label`` (I,) f4 and ``slice_<name>`` (I,) bool. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured

FORMAT_VERSION: Final = 2
PREFIX: Final = "slice_"


@dataclass(frozen=True, slots=True)
class TestRows:
    """Test impressions: `user`, `item` (I,) int64, `label` (I,) float32, `slices` (I,) bool by name."""

    # pytest takes a class of this name for tests.
    __test__ = False

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.float32]
    slices: Mapping[str, NDArray[np.bool_]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As they are on disk."""
        masks = {PREFIX + name: np.asarray(mask, bool) for name, mask in self.slices.items()}
        return {"user": self.user.astype("<i4"), "item": self.item.astype("<i4"), "label": self.label.astype("<f4"), **masks}

    @property
    def digest(self) -> str:
        """SHA-256 of names and values, 16 hex digits: runs of one digest can be paired row by row."""
        found = hashlib.sha256()
        for name, values in self.arrays().items():
            found.update(f"{name}:{values.dtype.str}:{len(values)};".encode())
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RunFile:
    """What `write_run` wrote: the JSON, and (I,) float32 test logits."""

    body: Mapping[str, Any]
    logits: NDArray[np.float32]


def write_run(
    path: Path, body: Mapping[str, Any], rows: TestRows, logits: NDArray[np.float32], *, rows_folder: Path | None = None
) -> None:
    """Write `path` (``.json``), its ``.npz``, and the rows in `rows_folder` (default: beside) unless they are there.

    The JSON is written last, and one that is there goes first: where it is, the rest is. ``format_version`` and ``rows`` are
    added to `body`; NaN becomes null.

    Raises:
        ValueError: not one logit a row.
    """
    if logits.shape != rows.label.shape:
        raise ValueError(f"write_run: expected {rows.label.shape} logits, got {logits.shape}")
    digest = rows.digest
    beside = rows_path(rows_folder or path.parent, digest)
    if not beside.exists():
        write_arrays(beside, rows.arrays())
    path.unlink(missing_ok=True)
    write_arrays(path.with_suffix(".npz"), {"logits": logits.astype("<f4")})
    write_json(path, {"format_version": FORMAT_VERSION, **body, "rows": {"digest": digest, "count": len(rows.label)}})


def rows_path(folder: Path, digest: str) -> Path:
    """Where `write_run` leaves the rows of this digest."""
    return folder / f"rows-{digest}.npz"


def read_run(path: Path) -> RunFile:
    """Read a run.

    Raises:
        Misconfigured: a file is missing or is no run of this format.
    """
    try:
        body = json.loads(path.read_text("utf-8"))
        version, count = body["format_version"], body["rows"]["count"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path}: expected a run file; {type(error).__name__} {error}; train it again") from error
    if version != FORMAT_VERSION:
        raise Misconfigured(f"{path}: expected format_version {FORMAT_VERSION}, got {version!r}; train it again")
    logits = read_arrays(path.with_suffix(".npz"))["logits"]
    if logits.shape != (count,):
        raise Misconfigured(f"{path}: expected {count} logits beside it, got {logits.shape}; train it again")
    return RunFile(body, logits)


def read_rows(path: Path) -> TestRows:
    """Read ``rows-<digest>.npz``.

    Raises:
        Misconfigured: no such file, or another digest than its name says.
    """
    found = read_arrays(path)
    try:
        masks = {name.removeprefix(PREFIX): values for name, values in found.items() if name.startswith(PREFIX)}
        rows = TestRows(found["user"].astype(np.int64), found["item"].astype(np.int64), found["label"], masks)
    except KeyError as error:
        raise Misconfigured(f"{path}: expected an array {error}, got {sorted(found)}; train again") from error
    if path.name != rows_path(path.parent, rows.digest).name:
        raise Misconfigured(f"{path}: expected rows of that digest, got {rows.digest}; delete the file and train again")
    return rows


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON; NaN is null. A reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    text = json.dumps(_finite(content), allow_nan=False, ensure_ascii=False)
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """An ``.npz``; a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Runs of one comparison may write the same rows at the same time.
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("wb") as out:
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    os.replace(beside, path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an ``.npz``.

    Raises:
        Misconfigured: no such file, damaged, or with pickles.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise Misconfigured(f"{path}: expected an .npz; {str(error)[:200]}; train again") from error
