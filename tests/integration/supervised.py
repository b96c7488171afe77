"""What children of the supervisor's test do; each writes a line to `file` when it begins."""

import os
import signal
import time
from pathlib import Path

from moontide.errors import Misconfigured


def _begin(file):
    with Path(file).open("a") as out:
        out.write(f"{os.getpid()}\n")


def wrong(file):
    _begin(file)
    raise Misconfigured("set-up: expected one, got none")


def late(file):
    _begin(file)
    time.sleep(0.4)
    raise Misconfigured("set-up: expected one, got none")


def crash(file):
    _begin(file)
    os._exit(9)


def stay(file, *, deaf=False):
    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: os._exit(0))
    _begin(file)
    time.sleep(60)
