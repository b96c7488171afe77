"""LMDB environments of this process: one per file, none used across a fork, and errors that say what to do."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from moontide.errors import Misconfigured, MoontideError, Transient
from moontide.stores.kv import Clock

_DATABASE: Final = b"moontide"
_READER_CHECK_US: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class LmdbOptions:
    """How to open a file: bytes it may grow to and reader slots, the same in every process; fsync each commit."""

    map_size: int
    max_readers: int
    sync: bool


@dataclass(slots=True)
class _Open:
    """An open environment and how many holders of this process use it."""

    env: Any
    database: Any
    users: int = 0
    checked_at: int = 0


_open: dict[str, _Open] = {}
_inherited: list[_Open] = []
_lock = threading.Lock()


def _forget_after_fork() -> None:
    # A child must neither use nor close its parent's environments: closing would run on locks and maps the parent still uses.
    global _lock  # noqa: PLW0603 - the parent may have held it at the fork
    _lock = threading.Lock()
    _inherited.extend(_open.values())
    _open.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class LmdbEnvironment:
    """A handle on the file in the folder `path`, which is made with mode 0700 (files 0600).

    Raises:
        Misconfigured: the folder cannot be written, or holds something else.
    """

    def __init__(self, path: Path, options: LmdbOptions, clock: Clock) -> None:
        self._path = os.path.realpath(path)
        self._options = options
        self._clock = clock
        self._pid = os.getpid()
        self._shared: _Open | None = self._acquire()

    def current(self) -> tuple[Any, Any]:
        """The environment and its database, opened anew after a fork. Every 10 s the slots of killed readers are freed.

        Raises:
            Misconfigured: closed before.
        """
        if self._shared is None:
            raise Misconfigured(f"online store {self._path}: expected an open store, got one that was closed; open it again")
        if self._pid != os.getpid():
            self._pid, self._shared = os.getpid(), self._acquire()
        shared, now = self._shared, self._clock()
        if abs(now - shared.checked_at) > _READER_CHECK_US:
            shared.checked_at = now
            shared.env.reader_check()
        return shared.env, shared.database

    def close(self) -> None:
        """Release the environment; the last holder of this process closes it."""
        with _lock:
            shared, self._shared = self._shared, None
            if shared is None or self._pid != os.getpid():
                return
            shared.users -= 1
            if shared.users == 0:
                del _open[self._path]
                shared.env.close()

    def explained(self, error: lmdb.Error) -> MoontideError:
        """What an error of LMDB means to the caller."""
        where, options = f"online store {self._path}", self._options
        if isinstance(error, lmdb.MapFullError):
            return Misconfigured(
                f"{where}: expected free space, got a file at its limit of {options.map_size} bytes; "
                "raise MOONTIDE_LMDB_MAP_SIZE in every process and start again, or drop a space"
            )
        if isinstance(error, lmdb.MapResizedError):
            return Misconfigured(
                f"{where}: expected the same MOONTIDE_LMDB_MAP_SIZE in every process, got a file larger than this one's "
                f"{options.map_size} bytes; set it alike and start again"
            )
        if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError | lmdb.CorruptedError):
            return Misconfigured(f"{where}: expected an LMDB file, got: {error}; move it away and load the store again")
        if isinstance(error, lmdb.ReadersFullError):
            return Transient(
                f"{where}: expected a free reader slot, got all {options.max_readers} in use; "
                "raise MOONTIDE_LMDB_MAX_READERS in every process, or run fewer"
            )
        return Transient(f"{where}: expected an answer, got {type(error).__name__}: {error}; try again")

    def _acquire(self) -> _Open:
        with _lock:
            shared = _open.get(self._path)
            if shared is None:
                shared = _open[self._path] = self._opened()
            shared.users += 1
            return shared

    def _opened(self) -> _Open:
        options = self._options
        try:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            env = lmdb.open(
                self._path,
                map_size=options.map_size,
                max_readers=options.max_readers,
                sync=options.sync,
                mode=0o600,
                max_dbs=2,
                max_spare_txns=16,
                readahead=False,
                meminit=False,
            )
            env.reader_check()
            return _Open(env, env.open_db(_DATABASE), checked_at=self._clock())
        except lmdb.InvalidError as error:
            raise self.explained(error) from error
        except (lmdb.Error, OSError) as error:
            raise Misconfigured(
                f"online store: expected a folder that can be written at {self._path}, got: {error}; set MOONTIDE_HOME"
            ) from error
