"""Stores that fail when told to, for the consumer under test: what to do is read from a control file before each call.

A control file is JSON, written by the harness at any time:

==========  ======================================================================================
outage      every call fails
first       the first N calls of the process fail
every       one call in N fails, drawn by its number: a period would keep step with callers that try again
how         ``before`` (default), ``half`` (part of the rows is written) or ``after`` (all are, and nobody is told)
slow        seconds each call sleeps first
==========  ======================================================================================
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time

import numpy as np

from moontide.errors import Transient
from moontide.stores.kv import wall_clock


class Control:
    """The folder of control files, as the consumer reads it."""

    def __init__(self, folder):
        self._folder = folder

    def read(self, name):
        """The wish for `name`; empty where there is none."""
        try:
            return json.loads((self._folder / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}


class Faulty:
    """Passes calls on; those of `methods` fail as the control file `name` says."""

    def __init__(self, inner, name, control, methods):
        self._inner, self._name, self._control, self._methods = inner, name, control, methods
        self._calls = 0
        self._lock = threading.Lock()

    def __getattr__(self, method):
        real = getattr(self._inner, method)
        return self._wrapped(method, real) if method in self._methods else real

    def _wrapped(self, method, real):
        def call(*args, **kwargs):
            with self._lock:
                self._calls += 1
                number = self._calls
            wish = self._control.read(self._name)
            time.sleep(wish.get("slow", 0))
            fails = wish.get("outage") or number <= wish.get("first", 0) or one_in(wish.get("every"), f"{self._name} {number}")
            if not fails:
                return real(*args, **kwargs)
            how = wish.get("how", "before")
            if how == "after":
                real(*args, **kwargs)
            elif how == "half" and method in _HALVES:
                _HALVES[method](real, *args, **kwargs)
            raise Transient(f"{self._name}.{method}: injected failure of call {number} ({how})")

        return call


def one_in(n, call):
    """Whether `call` is one of the n-th part of all calls; never where `n` is None."""
    return n is not None and random.Random(call).randrange(n) == 0


def _half_rows(real, view, rows, **kwargs):
    real(view, rows.slice(0, rows.num_rows // 2), **kwargs)


def _half_vectors(real, space, embeddings, tokens):
    some = len(embeddings) // 2
    real(space, embeddings.take(np.arange(some)), tokens[:some])


_HALVES = {"write_rows": _half_rows, "append": _half_rows, "upsert": _half_vectors}


class Points:
    """The trace: does what the control file ``point`` says when a point is passed for the n-th time.

    ``{"point": name, "n": 3, "action": "kill" | "stop" | "raise" | "transient" | "sleep", "seconds": 1.0}``; read once.
    """

    def __init__(self, control):
        self._wish = control.read("point")
        self._passed = 0
        self._lock = threading.Lock()

    def __call__(self, point):
        wish = self._wish
        if wish.get("point") != point:
            return
        with self._lock:
            self._passed += 1
            if self._passed != wish.get("n", 1):
                return
        sys.stderr.write(f"at point {point}: {wish['action']}\n")
        match wish["action"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
                # The signal takes the other threads down too, but perhaps not before this one went on.
                time.sleep(0.05)
            case "raise":
                raise RuntimeError(f"injected at {point}")
            case "transient":
                raise Transient(f"injected at {point}")
            case "sleep":
                time.sleep(wish["seconds"])


class SkewedClock:
    """The machine's clock plus what the control file ``clock`` says (``offset_us``), looked at every 100 ms."""

    def __init__(self, control):
        self._control = control
        self._offset = self._looked = 0

    def __call__(self):
        now = wall_clock()
        if now - self._looked > 100_000:
            self._looked, self._offset = now, int(self._control.read("clock").get("offset_us", 0))
        return now + self._offset
