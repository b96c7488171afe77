"""The audit file: one line per message, written at the checkpoint before its offsets are committed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from moontide.errors import Misconfigured, Transient
from moontide.stores.kv import Clock
from streaming.message import Result


class Audit:
    """Appends verdicts to a file that any number of processes may share.

    Args:
        path: the file; made where there is none. None: nothing is written.
        clock: stamps the lines.

    Raises:
        Misconfigured: the file cannot be opened.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._clock = clock
        self._file: int | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _opened(path)
            except OSError as error:
                raise Misconfigured(
                    f"MOONTIDE_STREAM_AUDIT_FILE: expected a file to append to, got: {error}; set another, or none"
                ) from error

    def append(self, results: Sequence[Result]) -> None:
        """Write one line per result and wait until they are on the disk.

        Raises:
            Transient: the file system failed; write all again (a line may then be there twice).
        """
        if self._file is None or not results:
            return
        now, pid = self._clock(), os.getpid()
        lines = [json.dumps(self._line(result, pid, now)) for result in results]
        try:
            # A torn line of an earlier failure ends here, not inside the next one.
            data = ("\n" + "\n".join(lines) + "\n").encode()
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise Transient(f"audit file: expected to append, got: {error}; make room or fix the disk") from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def _line(result: Result, pid: int, now: int) -> dict[str, str | int | None]:
        message = result.message
        return {
            "topic": message.topic,
            "partition": message.partition,
            "offset": message.offset,
            "event_id": result.event_id,
            "verdict": result.verdict.value,
            "reason": result.reason,
            "pid": pid,
            "ts_us": now,
        }


def _opened(path: Path) -> int:
    # Without O_NONBLOCK, opening a FIFO waits for a reader for ever.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"no regular file at {path}")
    return file
