"""A folder of files that is never half there: read with limits, replaced in one rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from moontide.errors import Misconfigured

JSON_MAX_BYTES: Final = 1 << 20


def read_file(path: Path, *, expected: Sequence[str]) -> bytes:
    """The file's bytes; `expected` names, for the error, what the folder should hold.

    Raises:
        Misconfigured: it cannot be read; where a killed `replace_folder` left the folder under another name, that is named.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        folder = path.parent
        if not folder.exists() and _retired(folder).is_dir():
            raise Misconfigured(
                f"encoder file {path}: expected an artifact, got none, as a run was killed while it replaced it; "
                f"what was there is whole in {_retired(folder)}: rename that to {folder.name}, or write the artifact again"
            ) from error
        raise Misconfigured(
            f"encoder file {path}: {type(error).__name__}; expected an artifact directory with {', '.join(expected)}"
        ) from error


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object of at most `JSON_MAX_BYTES`, or `Misconfigured`."""
    if len(data) > JSON_MAX_BYTES:
        raise Misconfigured(f"{name}: expected at most {JSON_MAX_BYTES} bytes, got {len(data)}")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{name}: expected JSON, got something else ({error}); copy the artifact again") from error
    if not isinstance(body, dict):
        raise Misconfigured(f"{name}: expected a JSON object, got {type(body).__name__}")
    return body


def dump_object(body: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same content, on every machine."""
    return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def require_folder(path: str | os.PathLike[str], *, mark: str, keys: Sequence[str]) -> None:
    """Refuse a place where `replace_folder` would delete something of another kind.

    Args:
        path: absent, an empty folder, or one whose file `mark` is a JSON object with `keys`.
        mark: name of the file that says what the folder is.
        keys: of that file.

    Raises:
        Misconfigured: anything else is there.
    """
    target = Path(path)
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise Misconfigured(f"artifact {target}: expected a folder or nothing, got a file or a link; choose another --out")
    if any(target.iterdir()) and not _is_marked(target / mark, keys):
        raise Misconfigured(
            f"artifact {target}: expected an artifact, an empty folder or nothing, got a folder with other content; "
            "choose another --out, writing there would delete it"
        )


def replace_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as the whole content of `target`, durably; what was there stays where that fails.

    What a run killed between its two renames took away is brought back first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    retired = _retired(target)
    if retired.is_dir() and not target.exists():
        retired.rename(target)
    shutil.rmtree(retired, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in files.items():
            with (fresh / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        fresh.chmod(0o755)
        if target.exists():
            # A folder cannot be renamed over another; between the two renames there is none, never half of one.
            target.rename(retired)
        try:
            fresh.rename(target)
        except OSError:
            if retired.exists():
                retired.rename(target)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _retired(target: Path) -> Path:
    """Where a folder is between the rename that takes it away and the one that puts the new one in its place."""
    return target.parent / f".{target.name}.old"


def _is_marked(path: Path, keys: Sequence[str]) -> bool:
    try:
        return parse_object(read_file(path, expected=()), path.name).keys() >= set(keys)
    except Misconfigured:
        return False
