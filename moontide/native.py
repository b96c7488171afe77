"""The SimTier count in machine code (``native/``) where it was built, loads and agrees with numpy; else numpy.

The library is plain C behind ctypes, which releases the GIL for the length of a call. It has one level for each set of
instructions; all give the counts of `moontide.tier_kernel.count_with_numpy` bit for bit.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moontide.tier_kernel import Counted, Kernel, Side, count_with_numpy

ABI: Final = 1
#: Fastest first, with the number that the library knows each by.
LEVELS: Final = MappingProxyType({"avx512-vnni": 2, "avx2": 1, "scalar": 0})
MAX_TIERS: Final = 250
MAX_DIM: Final = 1 << 17
#: Pairs below which a second thread costs more than it saves.
_THREAD_PAIRS: Final = 200_000
_PARTS: Final = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """A kernel, what it is called, and why it is not a faster one ("" where there is none)."""

    name: str
    kernel: Kernel
    why: str = ""


class _Side(ctypes.Structure):
    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("inv_norm", ctypes.c_void_p),
        ("present", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
    )


def functions(path: Path, prefix: str, names: Sequence[str], *, abi: int) -> list[Any]:
    """Functions of a shared object, whose ``<prefix>abi`` says which interface they have.

    Raises:
        OSError: it does not load, lacks a function, or has another ABI number.
    """
    library = ctypes.CDLL(str(path))
    try:
        said, *found = (getattr(library, prefix + name) for name in ("abi", *names))
    except AttributeError as error:
        raise OSError(f"{path}: {error}") from error
    if said() != abi:
        raise OSError(f"{path}: expected ABI {abi}, got {said()}; build it again")
    return found


class Library:
    """A loaded library.

    Args:
        path: of the shared object.

    Raises:
        OSError: it does not load, lacks a function, or has another ABI number than `ABI`.
    """

    def __init__(self, path: Path) -> None:
        self._has, self._scratch, self._run = functions(path, "moontide_tiers_", ("has", "scratch", "count"), abi=ABI)
        self._scratch.argtypes, self._scratch.restype = (ctypes.c_int, ctypes.c_int64), ctypes.c_int64
        side, long, pointer = ctypes.POINTER(_Side), ctypes.c_int64, ctypes.c_void_p
        self._run.argtypes = (side, side, long, long, long, ctypes.c_int, long, long, pointer, pointer, pointer)
        self._local = threading.local()

    def levels(self) -> list[str]:
        """What this processor can run, fastest first."""
        return [name for name, number in LEVELS.items() if self._has(number)]

    def kernel(self, level: str) -> Kernel:
        """The kernel of one of `levels`; above 250 tiers or 131,072 dims numpy counts."""
        return partial(self._count, LEVELS[level])

    def _count(self, level: int, left: Side, right: Side, tiers: int, threads: int) -> Counted:
        dim = left.codes.shape[1]
        if not 2 <= tiers <= MAX_TIERS or tiers % 2 or not 1 <= dim <= MAX_DIM:
            return count_with_numpy(left, right, tiers, threads)
        counts, missing = np.zeros((len(left.rows), tiers), np.int32), np.zeros(len(left.rows), np.int32)
        held: list[NDArray[np.generic]] = []
        ours, theirs = _pointers(left, held), _pointers(right, held)
        requests = len(left.offsets) - 1

        def fill(begin: int, end: int) -> None:
            scratch, to = self._memory(level, dim), (address(counts), address(missing))
            if self._run(ours, theirs, requests, dim, tiers, level, begin, end, scratch, *to):
                raise ValueError(f"the native kernel counts no {tiers} tiers of {dim} dims")

        cuts = _cuts(left.offsets, right.offsets, threads)
        if len(cuts) == 2:
            fill(*cuts)
            return counts, missing
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, cuts[:-1], cuts[1:]))
        return counts, missing

    def _memory(self, level: int, dim: int) -> int:
        """Address of working memory of this thread: a few hundred kilobytes, kept for the next call."""
        if getattr(self._local, "shape", None) != (level, dim):
            self._local.memory = np.empty(self._scratch(level, dim), np.uint8)
            self._local.shape = (level, dim)
        return address(self._local.memory)


def library_path(name: str = "_tiers") -> Path | None:
    """A library beside this module, where it was built for this Python."""
    places = (Path(__file__).with_name(f"{name}{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((place for place in places if place.is_file()), None)


def choose(path: Path | None) -> Chosen:
    """The fastest level of the library at `path` that agrees with numpy on a small request; numpy where there is none."""
    if path is None:
        return Chosen("numpy", count_with_numpy, "no native kernel was built")
    try:
        library = Library(path)
    except OSError as error:
        return Chosen("numpy", count_with_numpy, str(error))
    return first_that_agrees({level: library.kernel(level) for level in library.levels()})


def first_that_agrees(kernels: dict[str, Kernel]) -> Chosen:
    """The first whose counts of a small made-up request are numpy's; numpy where none is."""
    left, right = _sample()
    wanted = count_with_numpy(left, right, 20, 1)
    wrong: list[str] = []
    for name, kernel in kernels.items():
        got = kernel(left, right, 20, 1)
        if all(map(np.array_equal, got, wanted)):
            return Chosen(name, kernel, f"wrong counts of {', '.join(wrong)}" if wrong else "")
        wrong.append(name)
    return Chosen("numpy", count_with_numpy, f"wrong counts of {', '.join(wrong) or 'no level'}")


def _sample() -> tuple[Side, Side]:
    """Two requests that reach every branch: gaps, same keys, a block that is not full, dims that fill no register."""
    # Not numpy.random, which takes longer to import than all of this.
    draws = (np.arange(40 * 67, dtype=np.uint32) * np.uint32(2_654_435_761)) >> np.uint32(16)
    codes = ((draws % np.uint32(255)).astype(np.int16) - 127).astype(np.int8).reshape(40, 67)
    codes[:8] = codes[8:16]
    inv_norm = (1 / np.sqrt(np.square(codes.astype(np.float64)).sum(axis=1))).astype(np.float32)
    present = np.arange(40) % 9 != 5

    def side(sizes: tuple[int, ...]) -> Side:
        rows = draws[: sum(sizes)].astype(np.int64) % 41 - 1
        return Side(codes, inv_norm, present, rows, np.cumsum((0, *sizes)), rows % 11)

    return side((9, 2)), side((70, 3))


def _cuts(left: NDArray[np.int64], right: NDArray[np.int64], threads: int) -> list[int]:
    """First candidates of parts of like work, and the end; a part may begin within a request."""
    total = int(left[-1])
    if threads < 2:
        return [0, total]
    width, length = np.diff(left), np.diff(right)
    pairs = np.concatenate([[0], np.cumsum(width * length)])
    if pairs[-1] < _THREAD_PAIRS:
        return [0, total]
    parts = threads if len(width) < _PARTS * threads else _PARTS * threads
    wanted = np.linspace(0, pairs[-1], parts + 1)[1:-1]
    request = np.searchsorted(pairs, wanted, side="right") - 1
    inside = (wanted - pairs[request]) / np.maximum(length[request], 1)
    return [0, *np.unique(left[request] + inside.astype(np.int64)).tolist(), total]


def _pointers(side: Side, held: list[NDArray[np.generic]]) -> _Side:
    """`side` as the library reads it; what had to be copied for that is kept in `held`."""
    codes = side.codes
    if codes.strides[1] != 1 or codes.strides[0] < 0:
        codes = np.ascontiguousarray(codes)
    columns = [np.ascontiguousarray(c) for c in (side.inv_norm, side.present, side.rows, side.offsets)]
    keys = None if side.keys is None else np.ascontiguousarray(side.keys)
    held += [codes, *columns] + ([] if keys is None else [keys])
    return _Side(address(codes), codes.strides[0], *map(address, columns), keys if keys is None else address(keys))


def address(values: NDArray[np.generic]) -> int:
    """Where its memory begins."""
    return int(values.__array_interface__["data"][0])


CHOSEN: Final = choose(library_path())
