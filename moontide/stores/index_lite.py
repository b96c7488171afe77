"""What milvus-lite leaves to its users."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

_SCHEMA: Final = "schema.json"


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
