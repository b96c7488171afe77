"""Faults of what the server reads from: each asks all the time, makes its fault, and holds every answer against the ledger.

A scenario takes the sites and a size (1 is the whole, tests take a fraction) and returns its `Figures`.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from tests.faults.serving.asking import Callers
from tests.faults.serving.figures import Figures

#: Longest time that a recovery may take.
RECOVERY = 10.0


def torn_reads(sites, size):
    """A writer at full speed on the items that are asked for: every answer is some committed version of each item, never two mixed."""
    figures, site = Figures("torn_reads"), sites.lmdb()
    least = site.ledger.batches + 20
    with Callers(site.port, site.ledger) as callers:
        writer = site.writer()
        try:
            writer.wait_done()
            time.sleep(60 * size)
            _until(lambda: site.ledger.batches >= least, "20 batches")
        finally:
            writer.close()
    callers.count(figures)
    figures.batches = site.ledger.batches - least + 20
    figures.expect(not figures.typed and not figures.untyped, f"errors without a fault: {figures.typed} {figures.untyped}")
    return figures


def lmdb_writer_killed(sites, size):
    """The writer of the LMDB file is killed with SIGKILL in the middle of a batch, again and again; readers notice nothing."""
    figures, site = Figures("lmdb_writer_killed"), sites.lmdb()
    rng, inside, before = np.random.default_rng(0), 0, site.ledger.batches
    with Callers(site.port, site.ledger) as callers:
        writer = site.writer().wait_done()
        for _ in range(max(2, round(30 * size))):
            time.sleep(float(rng.uniform(0, 0.1)))
            inside += writer.kill()
            figures.faults += 1
            callers.wait("right", after=time.monotonic(), count=5)
            writer = site.writer().wait_done()
            figures.recovery.append(writer.first_done - writer.started)
        writer.close()
    callers.count(figures)
    figures.batches = site.ledger.batches - before
    figures.notes.append(
        f"{inside} of {figures.faults} kills hit the middle of a batch; recovery is from the start of the next writer, a fresh "
        "process, to its first commit"
    )
    figures.expect(not figures.typed and not figures.untyped, f"a reader noticed: {figures.typed} {figures.untyped}")
    figures.expect(inside > 0, "no kill hit the middle of a batch")
    return figures


def redis_restarted(sites, size):
    """Redis is killed with SIGKILL under load, stays away, and comes back: 503 and Retry-After meanwhile, then right values."""
    figures, site = Figures("redis_restarted"), sites.redis()
    away, before = max(0.5, 3.0 * size), site.ledger.batches
    with Callers(site.port, site.ledger) as callers:
        for _ in range(max(1, round(10 * size))):
            writer = site.writer().wait_done()
            time.sleep(0.2)
            writer.close()
            sites.redis_server.stop()
            figures.faults += 1
            gone = time.monotonic()
            callers.wait("typed", after=gone, count=3)
            time.sleep(away)
            back = time.monotonic()
            sites.redis_server.start()
            callers.wait("right", after=back, count=10)
            time.sleep(0.5)
            figures.recovery.append(callers.recovered(back))
    callers.count(figures)
    figures.batches = site.ledger.batches - before
    figures.notes.append(f"Redis was away for {away:.1f} s each time; recovery is from its start to the last error")
    figures.expect(set(figures.typed) <= {"503 transient", "503 busy", "504 timeout"}, f"typed otherwise: {figures.typed}")
    figures.expect(not figures.untyped, f"errors of no type: {figures.untyped}")
    figures.expect(max(figures.recovery) < RECOVERY, f"recovery took {max(figures.recovery):.1f} s")
    return figures


def worker_killed(sites, size):
    """One of two workers is killed with SIGKILL under load: the other goes on, and a new one takes its place."""
    figures, site = Figures("worker_killed"), sites.lmdb()
    with Callers(site.port, site.ledger, count=4) as callers:
        for turn in range(max(1, round(10 * size))):
            before = site.server.children()
            figures.expect(len(before) >= 2, f"expected two workers, got {len(before)}")
            callers.wait("right", after=time.monotonic(), count=20)
            os.kill(before[turn % len(before)], signal.SIGKILL)
            figures.faults += 1
            gone = time.monotonic()
            callers.wait("right", after=gone, count=5)
            first = min(o.at for o in callers.outcomes if o.sort == "right" and o.at > gone) - gone
            figures.expect(first < RECOVERY, f"nobody answered for {first:.1f} s")
            _until(lambda before=before: len(site.server.children()) == len(before), "a new worker")
            figures.recovery.append(time.monotonic() - gone)
    callers.count(figures)
    lost = sum(figures.untyped.values())
    figures.notes.append(
        f"{lost} requests were cut off with the {figures.faults} workers that had them; recovery is a new process"
    )
    figures.expect(lost <= 4 * figures.faults, f"more requests were lost than a worker can hold: {figures.untyped}")
    figures.expect(all(what.split()[0] in _CUT for what in figures.untyped), f"errors of no type: {figures.untyped}")
    figures.expect(not figures.typed, f"errors without a fault: {figures.typed}")
    return figures


#: What a caller sees whose server died: never half an answer.
_CUT = ("ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "ConnectionRefusedError", "IncompleteRead")


def _until(condition, what, seconds=60.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"expected {what} within {seconds} s, got none"
        time.sleep(0.02)
