"""The file of an in-process vector table: one space, any number of readers, one writer (capacity rows, D dims).

========= ============================== =====================================================================
part      bytes                          what
========= ============================== =====================================================================
header    4,096                          `HEADER`: what the file is, then counters the writer keeps
heads     16 x capacity                  `HEAD`: the row's sequence number, scale, inverse norm
codes     D x capacity                   int8
orders    40 x capacity                  the write order (`moontide.order.WriteOrder.pack`); read by the writer alone
keys      64 x capacity                  the item id, NUL-padded; a row keeps its key for ever
========= ============================== =====================================================================

Parts start at multiples of 4,096; numbers are little-endian. A row's sequence number is a seqlock (Lameter, "Effective
Synchronization on Linux/NUMA Systems", 2005): odd while the writer is at it, raised by 2 with every version, 0 before the first.
A reader that finds it even, and the same before and after its copy, has one version. That needs loads to stay in order with loads
and stores with stores, which x86-64 promises and others do not, so other processors are refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import platform
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.order import KEY_BYTES
from moontide.spaces import EmbeddingSpace, describe
from moontide.stores.record_embedding import space_identity
from serving.shared_memory import make_private

MAGIC: Final = b"MtTable\0"
FORMAT: Final = 1
PAGE: Final = 4_096
ID_BYTES: Final = 64
IDENTITY_BYTES: Final = 32
#: Rows whose memory is reserved at once: a write into memory that is not there would end the process.
RESERVED_ROWS: Final = 1 << 14

HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("format", "<u4"),
        ("dim", "<u4"),
        ("capacity", "<u8"),
        ("identity", "V32"),
        ("rows", "<u8"),
        ("loaded", "<u8"),
        ("refused", "<u8"),
        ("lag", "<i8"),
        ("event_time", "<i8"),
        ("applied_at", "<i8"),
        ("polled_at", "<i8"),
    ]
)
HEAD: Final = np.dtype([("sequence", "<u8"), ("scale", "<f4"), ("inv_norm", "<f4")])


def identity_of(space: EmbeddingSpace) -> bytes:
    """32 bytes that are equal where two vectors may be compared."""
    return hashlib.blake2b(space_identity(space).encode(), digest_size=IDENTITY_BYTES).digest()


def table_path(folder: Path, space: EmbeddingSpace) -> Path:
    """The file of a space in the folder of all tables."""
    return folder / f"{space.stored_id}.table"


class Mapping(NamedTuple):
    """The parts of one mapped file; over its memory, without copies."""

    header: NDArray[Any]
    heads: NDArray[Any]
    codes: NDArray[np.int8]
    orders: NDArray[Any]
    keys: NDArray[Any]


class TableFile:
    """One open and mapped file.

    Args:
        path: of the file.
        space: whose vectors are expected in it, or None: any.
        write: map it for writing.

    Raises:
        FileNotFoundError: no such file.
        SpaceMismatch: it holds vectors of another encoder or dim.
        Misconfigured: another format, a damaged file, or a processor that promises too little.
    """

    def __init__(self, path: Path, space: EmbeddingSpace | None, *, write: bool = False) -> None:
        require_processor()
        with path.open("r+b" if write else "rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(HEADER.itemsize)
            dim, capacity = _checked(path, head, space)
            offsets, size = _offsets(dim, capacity)
            if status.st_uid != os.getuid():
                raise Misconfigured(f"vector table {path}: expected a file of this user, got another's; remove it")
            if status.st_size != size:
                raise Misconfigured(f"vector table {path}: expected {size} bytes, got {status.st_size}; remove it")
            self._map = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if write else 0))
            self._file = os.dup(file.fileno()) if write else -1
        self.inode = (status.st_dev, status.st_ino)
        self.capacity, self.dim = capacity, dim
        self._offsets = offsets
        self._reserved = 0
        self.parts = Mapping(
            np.ndarray((1,), HEADER, self._map),
            np.ndarray((capacity,), HEAD, self._map, offsets[0]),
            np.ndarray((capacity, dim), np.int8, self._map, offsets[1]),
            np.ndarray((capacity,), f"V{KEY_BYTES}", self._map, offsets[2]),
            np.ndarray((capacity,), f"S{ID_BYTES}", self._map, offsets[3]),
        )

    def reserve(self, rows: int) -> bool:
        """Make sure that memory for the first `rows` rows is there; False where there is none left."""
        while self._reserved < min(rows, self.capacity):
            stop = min(self._reserved + RESERVED_ROWS, self.capacity)
            try:
                for offset, width in zip(self._offsets, _widths(self.dim), strict=True):
                    os.posix_fallocate(self._file, offset + self._reserved * width, (stop - self._reserved) * width)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return False
            self._reserved = stop
        return rows <= self.capacity

    def close(self) -> None:
        """Unmap, once no array over it is left."""
        del self.parts
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def create(path: Path, space: EmbeddingSpace, capacity: int) -> None:
    """Put an empty table at `path`, in one step; a reader of what was there before goes on with that until it looks again.

    Raises:
        Misconfigured: the folder cannot be written.
    """
    header = np.zeros(1, HEADER)
    header["magic"], header["format"], header["dim"], header["capacity"] = MAGIC, FORMAT, space.dim, capacity
    header["identity"], header["lag"] = np.void(identity_of(space)), -1
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, PAGE)
            file.write(header.tobytes())
            file.truncate(_offsets(space.dim, capacity)[1])
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Misconfigured(
            f"vector table: expected a folder in shared memory that can be written at {path.parent}, got {error.strerror}; "
            "choose another folder, or give it room"
        ) from error


def lock(folder: Path, space: EmbeddingSpace) -> int:
    """The descriptor that makes this process the only writer of a table, until it is closed; the folder is made.

    Raises:
        Transient: another process is.
        Misconfigured: the folder cannot be written.
    """
    path = table_path(folder, space).with_suffix(".lock")
    make_private(folder)
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"vector table: expected a folder that can be written at {folder}, got {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise Transient(
            f"vector table {space.id}: expected to be its only writer, got another process that holds {path}; "
            "read its table, and write it when that process has ended"
        ) from error
    return held


def opened(path: Path, space: EmbeddingSpace, capacity: int) -> TableFile:
    """The file at `path` for writing, begun anew where it is not of this space and capacity.

    Raises:
        Misconfigured: as `create`.
    """
    with contextlib.suppress(FileNotFoundError, Misconfigured, SpaceMismatch):
        found = TableFile(path, space, write=True)
        if found.capacity == capacity:
            return found
        found.close()
    create(path, space, capacity)
    return TableFile(path, space, write=True)


def require_processor() -> None:
    """Refuse a processor that may show a reader stores out of order."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise Misconfigured(
            f"vector tables: expected an x86-64 processor, got {platform.machine()}; set MOONTIDE_SERVING_TABLE=off there"
        )


def _checked(path: Path, head: bytes, space: EmbeddingSpace | None) -> tuple[int, int]:
    """Dim and capacity of a file that is a table, and of this space."""
    if len(head) < HEADER.itemsize or head[: len(MAGIC)] != MAGIC:
        raise Misconfigured(f"vector table {path}: expected a table, got another file; remove it")
    found = np.frombuffer(head, HEADER)[0]
    if found["format"] != FORMAT:
        raise Misconfigured(
            f"vector table {path}: expected format {FORMAT}, got {found['format']}; stop its writer and remove it"
        )
    if space is not None and (found["identity"].tobytes() != identity_of(space) or found["dim"] != space.dim):
        raise SpaceMismatch(
            f"vector table {path}: expected vectors of {describe(space)}, got {found['dim']} dims of another encoder; "
            "start its writer with the live spaces of this process"
        )
    return int(found["dim"]), int(found["capacity"])


def _widths(dim: int) -> tuple[int, int, int, int]:
    return HEAD.itemsize, dim, KEY_BYTES, ID_BYTES


def _offsets(dim: int, capacity: int) -> tuple[list[int], int]:
    """Where heads, codes, orders and keys start, and the size of the file."""
    offsets, at = [], PAGE
    for width in _widths(dim):
        offsets.append(at)
        at += -(-width * capacity // PAGE) * PAGE
    return offsets, at
