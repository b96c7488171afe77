"""What milvus-lite leaves to its users."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

_SCHEMA: Final = "schema.json"
_LOCK: Final = "LOCK"
_DERIVED: Final = (".idx", ".sidx")


def clear_unfinished(path: Path | None, collection: str) -> bool:
    """Remove what a process that was killed left of a collection it was making; returns whether there was anything.

    milvus-lite neither shows a folder without a schema nor makes a collection where there is one.

    Args:
        path: folder of the milvus-lite file that this process owns; None for a server.
        collection: its name.
    """
    if path is None:
        return False
    folder = path / "collections" / collection
    if not folder.is_dir() or (folder / _SCHEMA).exists():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def is_owned(path: Path) -> bool:
    """Whether any process, this one too, has the milvus-lite file in the folder `path` open."""
    try:
        handle = os.open(path / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def is_derived(entry: Path) -> bool:
    """Whether milvus-lite makes this file from the segments beside it, in the background and whenever it is missing."""
    return entry.suffix in _DERIVED


def clear_derived(path: Path) -> None:
    """Remove the search indexes of a milvus-lite file that nobody has open; loading makes them again from the segments.

    milvus-lite writes them in place and trusts what it finds: after a kill in the middle of one, its collection is never
    loaded again.
    """
    for entry in path.rglob("*"):
        if is_derived(entry):
            entry.unlink(missing_ok=True)
