"""A folder that a job writes beside the one it replaces, and puts in its place whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from moontide.errors import Misconfigured


class OutputFolder:
    """The folder that a run replaces; what a killed run left behind is put right when the next one opens it.

    Args:
        path: the folder; may exist only as the output of an earlier run.
        mark: name of the file that says it is one.

    Attributes:
        part: the folder to write in between `open` and `replace`.
    """

    def __init__(self, path: Path, mark: str) -> None:
        self.path = path.absolute()
        self.part = self.path.with_name(f".{self.path.name}.part")
        self._old = self.path.with_name(f".{self.path.name}.old")
        self._mark = mark

    def require_ours(self) -> None:
        """Raise `Misconfigured` where something else stands there."""
        empty = self.path.is_dir() and not any(self.path.iterdir())
        if self.path.exists() and not empty and not (self.path / self._mark).is_file():
            raise Misconfigured(
                f"--out {self.path}: expected no folder, an empty one, or one that this job wrote (with {self._mark}), "
                "got something else; name another folder"
            )

    def open(self) -> None:
        """Bring back what a run killed between two renames took away, and make an empty folder to write in."""
        if self._old.exists() and not self.path.exists():
            self._old.rename(self.path)
        shutil.rmtree(self._old, ignore_errors=True)
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)

    def replace(self) -> None:
        """Put the new folder in the place of the old one."""
        if self.path.exists():
            self.path.rename(self._old)
        self.part.rename(self.path)
        shutil.rmtree(self._old, ignore_errors=True)
