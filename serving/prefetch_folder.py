"""User sides that were read ahead, as files in shared memory, so that any worker of a host finds them.

A file is `HEAD`, then item ids (newest last, NUL between them), scales and inverse norms (L float32 each), presence (L bytes) and
codes (L x D int8), all little-endian. Its head names the request, user, service, spec and space it is for, and a file that is for
another, of another format or cut short is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Final

import numpy as np

from moontide.embeddings import Embeddings
from moontide.live import Service
from serving.prefetch_key import PrefetchKey
from serving.reading import UserAhead, UserSide, numbered
from serving.shared_memory import make_private
from serving.table_layout import identity_of

_log = logging.getLogger(__name__)

MAGIC: Final = b"MtAhead\0"
FORMAT: Final = 1
MAX_BYTES: Final = 64 << 20
ENTRIES: Final = 1_000
HEAD: Final = np.dtype(
    [
        ("magic", "S8"),
        ("format", "<u4"),
        ("dim", "<u4"),
        ("length", "<u4"),
        ("texts", "<u4"),
        ("version", "<i8"),
        ("started", "<f8"),
        ("key", "V32"),
    ]
)


class PrefetchFolder:
    """The files of one folder. Thread-safe, and safe among processes of one user.

    Args:
        path: of the folder, made with mode 0700; in shared memory.
        entries: how many files a purge leaves.

    Raises:
        Misconfigured: the folder cannot be made, or belongs to another user or is open to others.
    """

    def __init__(self, path: Path, *, entries: int = ENTRIES) -> None:
        self._path = path
        self._entries = entries
        make_private(path)

    def put(self, key: PrefetchKey, ahead: UserAhead, started: float) -> None:
        """Keep a user side; a folder that is full costs the file, never the request.

        Args:
            key: what it was read for.
            ahead: the user side.
            started: when reading began, in seconds of a clock that all processes share (`time.monotonic`).
        """
        file = self._file(key)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
                made.write(_packed(_identity(key), ahead, started))
            temporary.replace(file)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            _log.warning("a user side that was read ahead is not shared: %s", error.strerror)

    def get(self, key: PrefetchKey) -> tuple[UserAhead, float] | None:
        """What is kept under this key, and when it was begun; None where there is nothing of the sort."""
        try:
            with self._file(key).open("rb") as file:
                raw = file.read(MAX_BYTES)
        except OSError:
            return None
        return _unpacked(raw, _identity(key), key.service)

    def purge(self, seconds: float) -> None:
        """Remove files that are `seconds` older than the newest, and the oldest of too many.

        A folder that is gone is made again.

        Raises:
            Misconfigured: it cannot be made, or another user made it meanwhile.
        """
        found: list[tuple[float, str]] = []
        try:
            entries = os.scandir(self._path)
        except FileNotFoundError:
            make_private(self._path)
            return
        with entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
        found.sort(reverse=True)
        for place, (when, path) in enumerate(found):
            if place >= self._entries or when < found[0][0] - seconds:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _file(self, key: PrefetchKey) -> Path:
        return self._path / hashlib.blake2b(key.request_id.encode(), digest_size=16).hexdigest()


def _identity(key: PrefetchKey) -> bytes:
    """32 bytes of everything that a user side is good for."""
    service = key.service
    parts = [
        key.request_id,
        key.user_id,
        service.name,
        service.simtier.spec_id,
        identity_of(service.space).hex(),
        str(service.space.dim),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=32).digest()


def _packed(identity: bytes, ahead: UserAhead, started: float) -> bytes:
    side, ids = ahead.side, ahead.ids
    history = side.history
    texts = "\0".join(ids).encode("ascii")
    head = np.zeros(1, HEAD)
    head["magic"], head["format"], head["dim"], head["length"] = MAGIC, FORMAT, history.space.dim, len(history)
    head["texts"], head["version"], head["started"], head["key"] = len(texts), side.sequence_version, started, np.void(identity)
    arrays = (history.scale, history.inv_norm, history.present, history.codes)
    return b"".join([head.tobytes(), texts, *(np.ascontiguousarray(array).tobytes() for array in arrays)])


def _unpacked(raw: bytes, identity: bytes, service: Service) -> tuple[UserAhead, float] | None:
    if len(raw) < HEAD.itemsize:
        return None
    head = np.frombuffer(raw, HEAD, 1)[0]
    dim, length, texts = service.space.dim, int(head["length"]), int(head["texts"])
    if (
        head["magic"] != MAGIC.rstrip(b"\0")
        or head["format"] != FORMAT
        or head["key"].tobytes() != identity
        or head["dim"] != dim
    ):
        return None
    if len(raw) != HEAD.itemsize + texts + length * (9 + dim):
        return None
    at = HEAD.itemsize + texts
    scale = np.frombuffer(raw, "<f4", length, at)
    inv_norm = np.frombuffer(raw, "<f4", length, at + 4 * length)
    present = np.frombuffer(raw, np.bool_, length, at + 8 * length)
    codes = np.frombuffer(raw, np.int8, length * dim, at + 9 * length).reshape(length, dim)
    text = raw[HEAD.itemsize : at].decode("ascii", "replace")
    ids = text.split("\0") if length else []
    if len(ids) != length:
        return None
    numbers, keys = numbered(ids)
    history = Embeddings(service.space, codes, scale, inv_norm, present)
    return UserAhead(UserSide(int(head["version"]), history, keys), ids, numbers), float(head["started"])
