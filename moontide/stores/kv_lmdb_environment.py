"""LMDB environments of this process: one per file, none used across a fork, and errors that say what to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from moontide.errors import Misconfigured, MoontideError, Transient
from moontide.stores.kv import Clock

_DATABASE: Final = b"moontide"
_READER_CHECK_US: Final = 10_000_000
_FORK_SECONDS: Final = 10.0


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
    options: LmdbOptions
    users: int = 0
    checked_at: int = 0


_gate = threading.Condition()
_open: dict[str, _Open] = {}
_running = 0
_generation = 0


def _close_before_fork() -> None:
    """Wait for the running transactions and close every environment; the gate stays shut until the fork is over."""
    global _generation  # noqa: PLW0603 - handles of both processes open anew
    _gate.acquire()
    if _gate.wait_for(lambda: _running == 0, timeout=_FORK_SECONDS):
        for shared in _open.values():
            shared.env.close()
        _open.clear()
        _generation += 1


def _after_fork_in_parent() -> None:
    _gate.release()


def _after_fork_in_child() -> None:
    # What could not be closed in time must not be touched here: it belongs to the parent's threads.
    global _gate, _generation, _running  # noqa: PLW0603 - state of the parent's threads
    _inherited.extend(_open.values())
    _open.clear()
    _gate, _running = threading.Condition(), 0
    _generation += 1


_inherited: list[_Open] = []
os.register_at_fork(before=_close_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


class LmdbEnvironment:
    """A handle on the file in the folder `path`, which is made with mode 0700 (files 0600).

    Handles on one file share one environment. It is closed before a fork and opened anew in either process on the next use.

    Raises:
        Misconfigured: the folder cannot be written, holds something else, or is open in this process with other options.
    """

    def __init__(self, path: Path, options: LmdbOptions, clock: Clock) -> None:
        self._path = os.path.realpath(path)
        self._options = options
        self._clock = clock
        self._closed = False
        with _gate:
            self._generation, self._shared = _generation, self._acquire()

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Any]:
        """A transaction on the database; an exception aborts it. Every 10 s the slots of killed readers are freed.

        Raises:
            Misconfigured: closed before, the file is full, or another process opened it otherwise.
            Transient: any other failure of LMDB.
        """
        global _running  # noqa: PLW0603 - a fork waits for zero
        with _gate:
            shared = self._current()
            _running += 1
        try:
            self._check_readers(shared)
            with shared.env.begin(db=shared.database, write=write) as txn:
                yield txn
        except lmdb.Error as error:
            raise self._explained(error) from error
        finally:
            with _gate:
                _running -= 1
                _gate.notify_all()

    def close(self) -> None:
        """Release the environment; the last handle of this process closes it."""
        with _gate:
            if self._closed:
                return
            self._closed = True
            if self._generation == _generation:
                self._shared.users -= 1
                if self._shared.users == 0:
                    del _open[self._path]
                    self._shared.env.close()

    def _current(self) -> _Open:
        if self._closed:
            raise Misconfigured(f"online store {self._path}: expected an open store, got one that was closed; open it again")
        if self._generation != _generation:
            self._generation, self._shared = _generation, self._acquire()
        return self._shared

    def _check_readers(self, shared: _Open) -> None:
        now = self._clock()
        if abs(now - shared.checked_at) > _READER_CHECK_US:
            shared.checked_at = now
            shared.env.reader_check()

    def _acquire(self) -> _Open:
        shared = _open.get(self._path)
        if shared is None:
            shared = _open[self._path] = self._opened()
        if shared.options != self._options:
            raise Misconfigured(
                f"online store {self._path}: expected {shared.options} as another store of this process opened it, "
                f"got {self._options}; set MOONTIDE_LMDB_* alike, or close the other store first"
            )
        shared.users += 1
        return shared

    def _explained(self, error: lmdb.Error) -> MoontideError:
        """What an error of LMDB means to the caller."""
        where, options = f"online store {self._path}", self._options
        if isinstance(error, lmdb.MapFullError):
            return Misconfigured(
                f"{where}: expected free space, got a file at its limit of {options.map_size} bytes; "
                "raise MOONTIDE_LMDB_MAP_SIZE in every process and start again, or drop a space (part of a large write may be "
                "there; writing it again is safe)"
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
            return _Open(env, env.open_db(_DATABASE), options, checked_at=self._clock())
        except lmdb.InvalidError as error:
            raise self._explained(error) from error
        except (lmdb.Error, OSError) as error:
            raise Misconfigured(
                f"online store: expected a folder that can be written at {self._path}, got: {error}; set MOONTIDE_HOME"
            ) from error
