"""A program that runs behind the demo: started, waited for, stopped, however the demo ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moontide.errors import Transient

_READY_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 45.0
#: Kafka's controller listens 1,000 above the broker.
_PORTS: Final = range(20_000, 60_000)


@dataclass(frozen=True, slots=True)
class Program:
    """One of them.

    Attributes:
        name: for messages.
        command: with ``env`` and its arguments in front.
        folder: where it runs.
        log: file for what it says.
        ready: URL that answers 200 once it can work.
    """

    name: str
    command: Sequence[str]
    folder: Path
    log: Path
    ready: str

    @contextmanager
    def running(self) -> Iterator[None]:
        """The program, ready; it has finished what it began when this ends.

        Raises:
            Transient: it did not become ready, or did not end well; its log says why.
        """
        with self.log.open("wb") as written:
            process = subprocess.Popen(self.command, cwd=self.folder, stdout=written, stderr=written)
        try:
            self._wait_ready(process)
            yield
            process.send_signal(signal.SIGTERM)
            if process.wait(_STOP_SECONDS):
                raise Transient(f"demo: the {self.name} ended with {process.returncode}; see {self.log}")
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        ends = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > ends:
                last = " ".join(self.log.read_text(errors="replace").splitlines()[-1:])[:300]
                raise Transient(f"demo: expected the {self.name} to get ready, got: {last or 'nothing'}; see {self.log}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.ready, timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port in _PORTS:
            return port
