"""A folder that a job writes beside the one it replaces, and puts in its place whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moontide.errors import Misconfigured


class OutputFolder:
    """The folder that a run replaces; what a killed run left behind is put right when the next one opens it.

    Args:
        path: the folder, or a link to it, which stays; may exist only as the output of an earlier run.
        mark: name of the file that says it is one.

    Attributes:
        path: the folder itself.
        part: the folder to write in between `open` and `replace`.
    """

    def __init__(self, path: Path, mark: str) -> None:
        self.path = Path(os.path.realpath(path))
        self.part = self.path.with_name(f".{self.path.name}.part")
        self._old = self.path.with_name(f".{self.path.name}.old")
        self._mark = mark

    def require_ours(self, *, overwrite: bool = False) -> None:
        """Raise `Misconfigured` where a file stands there, or, unless `overwrite`, a folder with other content."""
        if self.path.exists() and not self.path.is_dir():
            raise Misconfigured(f"--out {self.path}: expected a folder, got a file; name another folder")
        if overwrite or not self.path.exists() or not any(self.path.iterdir()):
            return
        if not (self.path / self._mark).is_file():
            raise Misconfigured(
                f"--out {self.path}: expected no folder, an empty one, or one that this job wrote (with {self._mark}), "
                "got something else; name another folder"
            )

    def open(self) -> None:
        """Bring back what a run killed between two renames took away, and make an empty folder to write in."""
        if _is_folder(self._old) and not self.path.exists():
            self._old.rename(self.path)
        _remove(self._old)
        _remove(self.part)
        self.part.mkdir(parents=True)

    def replace(self) -> None:
        """Put the new folder in the place of the old one."""
        if self.path.exists():
            self.path.rename(self._old)
        self.part.rename(self.path)
        _remove(self._old)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
