"""Arrays in a folder: one ``.npy`` each, opened without being read, so that many processes share them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

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


class ArrayFile:
    """Rows of int8 that arrive in batches, as one ``.npy`` or in memory.

    Args:
        path: the file; None: in memory.
        width: D.
    """

    def __init__(self, path: Path | None, width: int) -> None:
        self._path, self._width, self._rows = path, width, 0
        self._parts: list[NDArray[np.int8]] = []
        self._file: BinaryIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
            self._header()

    def append(self, rows: NDArray[np.int8]) -> None:
        """Take (B, D) rows."""
        self._rows += len(rows)
        if self._file is None:
            self._parts.append(rows)
        else:
            self._file.write(np.ascontiguousarray(rows).tobytes())

    def close(self) -> NDArray[np.int8]:
        """All rows, (V, D) int8; read-only and mapped where there is a file."""
        if self._file is None or self._path is None:
            return np.concatenate([np.zeros((0, self._width), np.int8), *self._parts])
        self._file.seek(0)
        self._header()
        self._file.close()
        return _load(self._path)

    def _header(self) -> None:
        """The header of so many rows; numpy pads it, so that a longer number takes no more bytes."""
        if self._file is not None:
            described = {"shape": (self._rows, self._width), "fortran_order": False, "descr": "|i1"}
            np.lib.format.write_array_header_1_0(self._file, described)
