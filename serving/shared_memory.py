"""Folders in shared memory that some processes of one user have in common, and nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from moontide.errors import Misconfigured
from moontide.settings import Settings

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made in it is private and checked
#: In a passing folder, locked for as long as the process that made it lives.
_LOCK: Final = "lock"


def shared_folder(settings: Settings, what: str) -> Path:
    """The folder of a site for `what`, made or not: in shared memory, or below the site's home where there is none."""
    if not _SHARED_MEMORY.is_dir():
        return settings.home / what
    site = hashlib.blake2b(f"{settings.home.resolve()}|{settings.project}".encode(), digest_size=8).hexdigest()
    return _SHARED_MEMORY / f"moontide-{os.getuid()}-{site}-{what}"


def make_private(path: Path) -> None:
    """Make a folder with mode 0700, or check that it is this user's alone: shared memory is open to all users of a machine.

    Raises:
        Misconfigured: it cannot be made, belongs to another user, or is open to others.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise Misconfigured(f"shared memory: expected a folder that can be made at {path}, got {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Misconfigured(f"shared memory: expected {path} to be this user's folder with mode 0700, got another; remove it")


@contextlib.contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """A new folder with mode 0700 in shared memory, or among temporary files where there is none; removed at the end.

    What killed processes of this user left, this function removes first: folders of that name that it made and nobody holds.

    Args:
        prefix: of its name.
    """
    within = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for left in within.glob(f"{prefix}*"):
        _remove_left(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        # Locked before it has its name: no other process finds it free.
        lock = os.open(folder / f".{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f".{_LOCK}").rename(folder / _LOCK)
        stack.callback(_empty, folder)
        yield folder


def _remove_left(folder: Path) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(folder)
        shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    """Remove all but the lock, without which what a signal or a kill leaves here would be nobody's to remove."""
    for part in folder.iterdir():
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif part.name != _LOCK:
            part.unlink(missing_ok=True)
