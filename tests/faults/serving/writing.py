"""The writer as a process, and what it has begun and committed so far, as its own words say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from tests.faults.serving import values

ROOT = Path(__file__).parents[3]


class Ledger:
    """What is known of all writers of a store. Thread-safe: versions only rise."""

    def __init__(self):
        self.committed = np.ones(values.ITEMS, np.int64)
        self.begun = 1
        self.batches = 0

    def begin(self, number):
        self.begun = max(self.begun, number)

    def done(self, number):
        batch = values.batch_of(number)
        self.committed[batch] = np.maximum(self.committed[batch], number)
        self.batches += 1


class Writer:
    """One process; `kill` ends it with SIGKILL wherever it is."""

    def __init__(self, options: dict, ledger: Ledger):
        self._ledger = ledger
        command = [sys.executable, "-m", "tests.faults.serving.writer", json.dumps(options), str(ledger.begun + 1)]
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.first_done: float | None = None
        self._last = ("", 0)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self):
        for line in self._process.stdout:
            word, number = line.split()
            if word == "begun":
                self._ledger.begin(int(number))
            else:
                self._ledger.done(int(number))
                self.first_done = self.first_done or time.monotonic()
            self._last = (word, int(number))

    def wait_done(self, seconds=60.0):
        """Until it has committed a batch."""
        ends = time.monotonic() + seconds
        while self.first_done is None:
            if self._process.poll() is not None or time.monotonic() > ends:
                raise AssertionError(f"the writer wrote nothing: {self._process.stderr.read()[-2000:]}")
            time.sleep(0.005)
        return self

    def kill(self):
        """SIGKILL; returns whether it was in the middle of a batch."""
        assert self._process.poll() is None, f"the writer ended by itself: {self._process.stderr.read()[-2000:]}"
        self._process.kill()
        self._process.wait()
        self._thread.join()
        # A batch that was begun may or may not be committed; the next writer takes a higher version in any case.
        return self._last[0] == "begun"

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._thread.join()
