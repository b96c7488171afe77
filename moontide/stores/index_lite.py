"""What milvus-lite leaves to its users."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from moontide.errors import Misconfigured

_ALIASES: Final = "aliases.json"
_COLLECTIONS: Final = "collections"
_SCHEMA: Final = "schema.json"
_LOCK: Final = "LOCK"
_DERIVED: Final = (".idx", ".sidx")
#: The second is read where the first cannot be.
_MANIFESTS: Final = ("manifest.json", "manifest.json.prev")
_SEGMENTS: Final = ("data_files", "delta_files")
_PARQUET_END: Final = b"PAR1"


def clear_unfinished(path: Path | None, collection: str) -> bool:
    """Remove what a process that was killed left of a collection it was making; returns whether there was anything.

    milvus-lite neither shows a folder without a schema nor makes a collection where there is one.

    Args:
        path: folder of the milvus-lite file that this process owns; None for a server.
        collection: its name.
    """
    if path is None:
        return False
    folder = path / _COLLECTIONS / collection
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


def alias_entries(path: Path) -> list[Path]:
    """What is to be on the disk for the aliases of the milvus-lite file in the folder `path` to survive a power failure."""
    return [path.parent, path, path / _ALIASES]


def collection_entries(path: Path, collection: str) -> Iterator[Path]:
    """As `alias_entries`, for the aliases and a collection that was flushed."""
    folder = path / _COLLECTIONS / collection
    yield from [*alias_entries(path), folder.parent, folder]
    yield from (entry for entry in folder.rglob("*") if not is_derived(entry))


def require_whole(path: Path) -> None:
    """Refuse a milvus-lite file that nobody has open and that a power failure cut short: milvus-lite would read nothing of it.

    Args:
        path: its folder.

    Raises:
        Misconfigured: aliases or a schema that are no JSON, or a segment a manifest names that is missing or cut short.
    """
    for entry in [path / _ALIASES, *path.glob(f"{_COLLECTIONS}/*/{_SCHEMA}")]:
        if entry.exists() and _fields(entry) is None:
            raise _cut_short(path, entry, "JSON")
    for folder in path.glob(f"{_COLLECTIONS}/*"):
        for entry in _segments(folder):
            if not _ends_as_parquet(entry):
                raise _cut_short(path, entry, "Parquet")


def _fields(entry: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(entry.read_bytes())
    except (ValueError, FileNotFoundError):
        return None
    return found if isinstance(found, dict) else None


def _segments(folder: Path) -> Iterator[Path]:
    """Only those that count: what a kill in the middle of a flush left is in no manifest, and milvus-lite removes it."""
    manifest = next((found for name in _MANIFESTS if (found := _fields(folder / name)) is not None), {})
    for partition, files in manifest.get("partitions", {}).items():
        for kind in _SEGMENTS:
            yield from (folder / "partitions" / partition / name for name in files.get(kind, []))


def _ends_as_parquet(entry: Path) -> bool:
    with suppress(OSError), entry.open("rb") as file:
        file.seek(-len(_PARQUET_END), os.SEEK_END)
        return file.read() == _PARQUET_END
    return False


def _cut_short(path: Path, entry: Path, kind: str) -> Misconfigured:
    got = f"{entry.stat().st_size} bytes that are none" if entry.exists() else "no such file"
    return Misconfigured(f"index {entry}: expected {kind}, got {got}; move {path} away and backfill the index")
