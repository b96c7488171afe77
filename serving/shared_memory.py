"""Folders in shared memory that the processes of one site and user have in common, and nobody else."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from moontide.errors import Misconfigured
from moontide.settings import Settings

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made in it is private and checked


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
