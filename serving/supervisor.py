"""A parent that does no work itself: it keeps its children alive, and ends when it is told to."""

from __future__ import annotations

import ctypes
import importlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from moontide.errors import Misconfigured, MoontideError
from moontide.logs import configure

#: Exit code of a child that says so at its beginning: the set-up is wrong. The first time it starts that ends the whole service.
MISCONFIGURED: Final = 78
#: A child that lived shorter is started again only after a pause, which doubles each time; its beginning is as long.
_LIVED: Final = 10.0
_PAUSES: Final = (0.1, 2.0)
#: Beyond the time that a child has to drain.
_GRACE: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1
_SPAWN: Final = multiprocessing.get_context("spawn")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Role:
    """One child.

    Attributes:
        name: in logs.
        run: ``module:function`` of what it does; imported in the child alone. It ends after SIGTERM; SIGINT does not reach it. A
            `MoontideError` is one line on stderr and exit code 1, but `Misconfigured` in its first 10 s `MISCONFIGURED`.
        arguments: of the function, by name.
        logging: `moontide.logs.configure`'s arguments, but for the stream.
    """

    name: str
    run: str
    arguments: Mapping[str, Any]
    logging: Mapping[str, Any] = field(default_factory=dict)


class _Child:
    """A role and the process that plays it now, if one does."""

    def __init__(self, role: Role, monotonic: Callable[[], float]) -> None:
        self.role = role
        self._monotonic = monotonic
        self.process: SpawnProcess | None = None
        self.starts = 0
        self._began = self._pause = 0.0
        self.due = 0.0

    def start(self) -> None:
        """Begin; where the system has no room for a process, rest as after one that ended at once."""
        process = _SPAWN.Process(target=_play, args=(self.role, os.getpid(), _LIVED), name=self.role.name)
        self._began = self._monotonic()
        try:
            start_apart(process)
        except OSError as error:
            self._rest()
            _log.error("%s could not be started and is tried again: %s", self.role.name, error.strerror or type(error).__name__)
            return
        self.process, self.starts = process, self.starts + 1

    def ended(self) -> int | None:
        """Exit code, once, after the process has ended."""
        if self.process is None or self.process.exitcode is None:
            return None
        code = self.process.exitcode
        self.process.close()
        self.process = None
        self._rest()
        return code

    def _rest(self) -> None:
        now = self._monotonic()
        least, most = _PAUSES
        self._pause = 0.0 if now - self._began >= _LIVED else min(most, max(least, 2 * self._pause))
        self.due = now + self._pause

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, number)


class Supervisor:
    """Runs roles, each in a process of its own that begins from nothing (spawn): no store crosses a fork.

    Args:
        roles: what is kept running.
        drain_seconds: after SIGTERM a child has so long to end; 5 s later it is killed.
        gone: told the process id of a child that ended.
        ending: called when the service ends, before the children are told.
        monotonic: seconds.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        drain_seconds: float,
        *,
        gone: Callable[[int], None] = lambda _pid: None,
        ending: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._children = [_Child(role, monotonic) for role in roles]
        self._drain, self._gone, self._ending, self._monotonic = drain_seconds, gone, ending, monotonic
        self._stopping = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT (0), or until a child says, beginning for the first time, that the set-up is wrong (1)."""
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._keep(woken)
        finally:
            self._end()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            woken.close()
            waker.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _keep(self, woken: socket.socket) -> int:
        while not self._stopping:
            for child in self._children:
                if child.process is None and child.due <= self._monotonic():
                    child.start()
            due = [child.due - self._monotonic() for child in self._children if child.process is None]
            wait([woken, *self._sentinels()], timeout=max(0.0, min(due)) if due else None)
            if self._any_wrong():
                return 1
        return 0

    def _any_wrong(self) -> bool:
        """Whether a child says that the set-up is wrong; others that ended will be started again."""
        for child in self._children:
            pid = child.process.pid if child.process is not None else None
            code = child.ended()
            if code is None:
                continue
            self._gone(pid or 0)
            if self._stopping:
                level = logging.INFO if code == 0 else logging.WARNING
                _log.log(level, "%s (process %s) ended with %d", child.role.name, pid, code)
                continue
            if code == MISCONFIGURED and child.starts == 1:
                return True
            _log.error("%s (process %s) ended with %d and is started again", child.role.name, pid, code)
        return False

    def _end(self) -> None:
        self._stopping = True
        self._ending()
        for number, seconds in ((signal.SIGTERM, self._drain + _GRACE), (signal.SIGKILL, _GRACE)):
            for child in self._children:
                child.signal(number)
            ends = self._monotonic() + seconds
            while (alive := self._sentinels()) and (left := ends - self._monotonic()) > 0:
                wait(alive, timeout=left)
                self._any_wrong()

    def _sentinels(self) -> list[int]:
        return [child.process.sentinel for child in self._children if child.process is not None]


def start_apart(process: SpawnProcess, *numbers: signal.Signals) -> None:
    """Start a process that SIGINT, which Ctrl-C sends to all of them, and `numbers` do not reach: its parent says when it ends.

    Raises:
        OSError: the system has no room for one.
    """
    # The first start of a process also starts multiprocessing's tracker, and that unblocks signals in between.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *numbers})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _play(role: Role, parent: int, beginning: float) -> None:
    """What a child does first: end with its parent, log as it does; then its role."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    configure(sys.stderr, **role.logging)
    module, _, name = role.run.partition(":")
    function = getattr(importlib.import_module(module), name)
    # Imports are no part of it: where many children start at once on few cores, they alone take longer.
    began = time.monotonic()
    try:
        function(**role.arguments)
    except MoontideError as error:
        sys.stderr.write(f"serving: {role.name}: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        wrong = isinstance(error, Misconfigured) and time.monotonic() - began < beginning
        raise SystemExit(MISCONFIGURED if wrong else 1) from None
