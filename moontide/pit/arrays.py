"""Arrays in a folder: one ``.npy`` each, opened without being read, so that many processes share them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured

_META: Final = "meta.json"
#: Smaller files are read at once; an empty one cannot be mapped.
_SMALL: Final = 1 << 16


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None = None) -> None:
    """Write ``<name>.npy`` of each array, then `meta` (plain values) as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    (folder / _META).write_text(json.dumps(dict(meta or {})), encoding="utf-8")


def open_arrays(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read-only arrays by name, mapped into memory where they are large, and the meta data.

    Raises:
        Misconfigured: nothing was saved there.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / _META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"{folder}: expected saved arrays, got none; every machine must see this folder") from None
    return {path.stem: _load(path) for path in sorted(folder.glob("*.npy"))}, meta


def _load(path: Path) -> NDArray[Any]:
    small = path.stat().st_size < _SMALL
    found: NDArray[Any] = np.load(path, mmap_mode=None if small else "r", allow_pickle=False)
    # A plain view: `np.memmap` costs Python at every slice.
    return found.view(np.ndarray)
