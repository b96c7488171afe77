"""The pipes to an encoder child: one frame out, one frame back, and whatever it says on stderr, within a time."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import time
from collections import deque
from typing import Final

from streaming.encoder_wire import HEADER, Garbled, Kind, clean, read_header

_PIPE_BYTES: Final = 1 << 20
_PIECES: Final = 512
_LINES: Final = 5
_LINE_BYTES: Final = 200
_STDERR_BYTES: Final = 4_096


class Pipes:
    """Three ends, none of which ever blocks this process.

    Args:
        requests: written to.
        answers: read from.
        errors: the child's stderr; only its last part is kept.
    """

    def __init__(self, *, requests: int, answers: int, errors: int) -> None:
        self._requests = requests
        self._answers = answers
        self._errors = errors
        self._stderr = b""
        for handle in (requests, answers, errors):
            os.set_blocking(handle, False)
        self._poll = select.poll()
        for handle in (answers, errors):
            self._poll.register(handle, select.POLLIN)
        with contextlib.suppress(OSError):
            for handle in (requests, answers):
                fcntl.fcntl(handle, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether its last words are those of a program whose allocation failed."""
        return b"bad_alloc" in self._stderr or b"MemoryError" in self._stderr

    @property
    def last_words(self) -> str:
        """The last lines of stderr, for a log."""
        lines = [clean(line, _LINE_BYTES) for line in self._stderr.splitlines()[-_LINES:]]
        return "; ".join(line for line in lines if line) or "nothing"

    def exchange(self, pieces: list[bytes], sequence: int, *, limit: int, seconds: float) -> tuple[Kind, bytes]:
        """Write the pieces and read one frame of at most `limit` bytes that answers `sequence`.

        Raises:
            Garbled: something else than such a frame came.
            TimeoutError: it did not come in time.
            EOFError: the child closed its end.
        """
        deadline = time.monotonic() + seconds
        unsent = deque(memoryview(p) for p in pieces)
        got, wanted = bytearray(), HEADER.size
        # A small request fits into the pipe, and then nothing has to wait for room.
        if self._write(unsent):
            self._poll.register(self._requests, select.POLLOUT)
        while len(got) < wanted:
            self._step(unsent, got, wanted, deadline - time.monotonic())
            if wanted == HEADER.size == len(got):
                kind, answered, length = read_header(bytes(got), limit=limit)
                wanted += length
        if answered != sequence:
            raise Garbled("an answer to another question")
        return kind, bytes(got[HEADER.size :])

    def drain(self) -> bool:
        """Take what is on stderr; False at its end."""
        try:
            while data := os.read(self._errors, _PIPE_BYTES):
                self._stderr = (self._stderr + data)[-_STDERR_BYTES:]
        except BlockingIOError:
            return True
        return False

    def _step(self, unsent: deque[memoryview], got: bytearray, wanted: int, seconds: float) -> None:
        """Wait for whichever end is first and serve it."""
        if seconds <= 0:
            raise TimeoutError
        for handle, _ in self._poll.poll(math.ceil(seconds * 1_000)):
            if handle == self._answers:
                data = os.read(self._answers, min(wanted - len(got), _PIPE_BYTES))
                if not data:
                    raise EOFError
                got += data
            elif not (self.drain() if handle == self._errors else self._write(unsent)):
                self._poll.unregister(handle)

    def _write(self, unsent: deque[memoryview]) -> bool:
        """Write what the pipe takes; whether there is something left that it may take later."""
        try:
            written = os.writev(self._requests, [unsent[i] for i in range(min(len(unsent), _PIECES))])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            # What it said before it died may still be in the other pipe.
            return False
        while written:
            if written < len(unsent[0]):
                unsent[0] = unsent[0][written:]
                break
            written -= len(unsent.popleft())
        return bool(unsent)
