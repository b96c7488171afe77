"""One encoder child: started, asked within a time, killed. What it says is checked before it is believed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from encoders import Item
from moontide.errors import Misconfigured, Transient
from moontide.spaces import EmbeddingSpace
from streaming.encoder_pipes import Pipes
from streaming.encoder_wire import (
    MAX_ITEMS,
    MAX_NOTE,
    STARTED,
    Answer,
    Garbled,
    Kind,
    answer_limit,
    clean,
    pack_items,
    unpack_answer,
    unpack_space,
)
from streaming.encoding import Fault

_LOG = logging.getLogger(__name__)
# On a machine of many cores an arena per thread, and BLAS buffers that nothing uses, would fill the address space.
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(eq=False)
class Failed(Exception):
    """A call that killed the child, or made it unusable.

    Attributes:
        fault: what happened.
        detail: for people; nothing of the items.
        suspects: rows whose decoding had begun and not ended.
    """

    fault: Fault
    detail: str
    suspects: tuple[int, ...] = ()


class Link:
    """A running child and its pipes; `greet` comes first, and `kill` last.

    Args:
        command: program and flags; the flags of this link are appended.

    Raises:
        Transient: the program cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.calls = 0
        self._marks = os.memfd_create("moontide-marks")
        os.ftruncate(self._marks, MAX_ITEMS)
        self._answers, child_end = os.pipe()
        flags = ["--answers", str(child_end), "--marks", str(self._marks), "--parent", str(os.getpid())]
        try:
            self._child = subprocess.Popen(
                [*command, *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(child_end, self._marks),
                # Secrets of this process are in its environment; the child gets what finds the same modules, no more.
                env={**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                process_group=0,
            )
        except OSError as error:
            os.close(self._answers)
            os.close(self._marks)
            raise Transient(f"encoder process: cannot be started ({error.strerror}); free memory or processes") from error
        finally:
            os.close(child_end)
        assert self._child.stdin is not None
        assert self._child.stderr is not None
        self._pipes = Pipes(requests=self._child.stdin.fileno(), answers=self._answers, errors=self._child.stderr.fileno())
        self._dim = 0

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def greet(self, *, seconds: float) -> EmbeddingSpace:
        """The space that the child encodes into, as soon as it is ready.

        Raises:
            Misconfigured: it says that it cannot be started as it is.
            Transient: it is not ready in time, or died.
        """
        try:
            kind, body = self._pipes.exchange([], 0, limit=MAX_NOTE, seconds=seconds)
            if kind is Kind.HELLO:
                space = unpack_space(body)
                self._dim = space.dim
                return space
            problem = clean(body, MAX_NOTE)
        except (Garbled, TimeoutError, EOFError) as error:
            self.kill()
            raise Transient(
                f"encoder process: expected it to start, got {self._ending(error)}; {self._pipes.last_words}"
            ) from error
        self.kill()
        if kind is Kind.MISCONFIGURED:
            raise Misconfigured(problem)
        raise Misconfigured(
            "encoder process: expected the encoder to fit into its address space, got MemoryError; "
            "raise MOONTIDE_STREAM_ENCODE_BYTES"
        )

    def ask(self, items: Sequence[Item], *, seconds: float) -> Answer:
        """The child's answer to at most `MAX_ITEMS` items, or `Failed`: it is dead then."""
        self.calls += 1
        os.pwrite(self._marks, bytes(MAX_ITEMS), 0)
        try:
            limit = answer_limit(len(items), self._dim)
            kind, body = self._pipes.exchange(pack_items(items, self.calls), self.calls, limit=limit, seconds=seconds)
            if kind is Kind.VECTORS:
                return unpack_answer(body, len(items), self._dim)
            if kind is not Kind.OUT_OF_MEMORY and kind is not Kind.FAILED:
                raise Garbled("an answer to another question")
            fault = Fault.ENCODER_OUT_OF_MEMORY if kind is Kind.OUT_OF_MEMORY else Fault.ENCODER_CRASHED
            failed = Failed(fault, f"the encoder gave up: {clean(body) or 'MemoryError'}", self._suspects(len(items)))
        except Garbled as error:
            failed = Failed(Fault.ENCODER_CRASHED, f"the encoder wrote nonsense: {error}", self._suspects(len(items)))
        except TimeoutError:
            failed = Failed(
                Fault.ENCODER_TIMED_OUT, f"expected an answer within {seconds:g} s, got none", self._suspects(len(items))
            )
        except EOFError:
            failed = self._died(len(items))
        self.kill()
        self._log(failed.detail)
        raise failed

    def interrupt(self) -> None:
        """End the child; a call that another thread waits in fails then, and this thread has to `kill` after it."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()

    def kill(self) -> None:
        """End the child, wait until it has, and let go of its pipes; again is fine."""
        self.interrupt()
        self._child.wait()
        if self._marks >= 0:
            self._pipes.drain()
            for stream in (self._child.stdin, self._child.stderr):
                assert stream is not None
                with contextlib.suppress(OSError):
                    stream.close()
            os.close(self._answers)
            os.close(self._marks)
            self._marks = -1

    def _suspects(self, count: int) -> tuple[int, ...]:
        return tuple(row for row, mark in enumerate(os.pread(self._marks, count, 0)) if mark == STARTED)

    def _died(self, count: int) -> Failed:
        suspects = self._suspects(count)
        self.kill()
        fault = Fault.ENCODER_OUT_OF_MEMORY if self._pipes.ran_out_of_memory else Fault.ENCODER_CRASHED
        return Failed(fault, f"the encoder died: {self._ending(None)}", suspects)

    def _ending(self, error: Exception | None) -> str:
        if isinstance(error, TimeoutError | Garbled):
            return "no greeting in time" if isinstance(error, TimeoutError) else f"nonsense ({error})"
        code = self._child.returncode
        return signal.Signals(-code).name if code and code < 0 else f"exit status {code}"

    def _log(self, detail: str) -> None:
        _LOG.warning("encoder process %d: %s; it said: %s", self.pid, detail, self._pipes.last_words)
