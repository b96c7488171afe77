"""Callers that ask all the time and check every answer, each on a connection of its own."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tests.faults.serving import values

ARROW = "application/vnd.apache.arrow.stream"
PROBLEM = "application/problem+json"
ASKED = 50


class Answer(NamedTuple):
    """One answer; `status` 0 and the error's name in `kind` where there was none."""

    status: int
    kind: str
    body: bytes
    headers: dict


class Outcome(NamedTuple):
    """When it was there (monotonic), ``right``, ``wrong``, ``typed`` or ``untyped``, what exactly, and how long it took."""

    at: float
    sort: str
    what: str
    seconds: float


class Connection:
    """A kept-alive connection that is made again after a failure."""

    def __init__(self, port, timeout=30.0):
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def ask(self, path, body, media=ARROW, accept=ARROW):
        try:
            self._http.request("POST", path, body, {"Content-Type": media, "Accept": accept})
            found = self._http.getresponse()
            return Answer(
                found.status,
                found.getheader("Content-Type", ""),
                found.read(),
                {name.lower(): value for name, value in found.getheaders()},
            )
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            return Answer(0, type(error).__name__, b"", {})

    def close(self):
        self._http.close()


def arrow_body(ids):
    table = pa.table({"item_id": pa.array(ids, pa.string())}).replace_schema_metadata({"user_id": values.USER})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def judged(answer):
    """``typed`` and the problem's name, or ``untyped`` and what came instead."""
    if answer.status == 0:
        return "untyped", answer.kind
    if answer.kind != PROBLEM:
        return "untyped", f"{answer.status} {answer.kind}"
    said = json.loads(answer.body)
    name = said.get("type", "").removeprefix("urn:moontide:")
    whole = said.get("status") == answer.status and said.get("title") and said.get("detail")
    if not whole or answer.status == 500 or (answer.status == 503 and "retry-after" not in answer.headers):
        return "untyped", f"{answer.status} {name}"
    return "typed", f"{answer.status} {name}"


class Callers:
    """`count` threads; use as a context: they ask from its beginning to its end.

    Args:
        port: of the server.
        ledger: what is committed; every answer is held against it.
        count: of threads.
        pause: seconds between two requests of one thread.
    """

    def __init__(self, port, ledger, *, count=3, pause=0.0):
        self.outcomes: list[Outcome] = []
        self._port, self._ledger, self._pause = port, ledger, pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        rng = np.random.default_rng(number)
        connection = Connection(self._port)
        while not self._stop.is_set():
            numbers = np.sort(rng.choice(values.ITEMS, ASKED, replace=False))
            floor, begun = self._ledger.committed[numbers], time.monotonic()
            answer = connection.ask("/v1/features", arrow_body([*map(values.item_id, numbers), "none:0"]))
            sort, what = self._sorted(answer, numbers, floor)
            now = time.monotonic()
            self.outcomes.append(Outcome(now, sort, what, now - begun))
            self._stop.wait(self._pause if sort == "right" else max(0.02, self._pause))
        connection.close()

    def _sorted(self, answer, numbers, floor):
        if answer.status != 200:
            return judged(answer)
        table = pa.ipc.open_stream(answer.body).read_all()
        problems = values.wrong(table, numbers, floor, self._ledger.begun)
        if problems:
            # What a writer says of itself takes a moment to arrive.
            time.sleep(0.5)
            problems = values.wrong(table, numbers, floor, self._ledger.begun)
        return ("wrong", "; ".join(problems)) if problems else ("right", "")

    def wait(self, sort, *, after, seconds=30.0, count=1):
        """Until there are `count` outcomes of that sort after a time; returns when the last of them was there."""
        ends = time.monotonic() + seconds
        while True:
            found = [o.at for o in self.outcomes if o.sort == sort and o.at > after]
            if len(found) >= count:
                return found[count - 1]
            if time.monotonic() > ends:
                seen = Counter(f"{o.sort} {o.what}" for o in self.outcomes if o.at > after)
                raise AssertionError(f"expected {count} x {sort} within {seconds} s, got {dict(seen)}")
            time.sleep(0.01)

    def recovered(self, since):
        """Seconds from `since` to the last outcome that was not right."""
        bad = [o.at for o in self.outcomes if o.sort != "right" and o.at > since]
        return max(bad) - since if bad else 0.0

    def count(self, figures):
        """Add what was seen to the figures; a wrong answer is a finding."""
        figures.requests += len(self.outcomes)
        for outcome in self.outcomes:
            if outcome.sort == "right":
                figures.right += 1
            elif outcome.sort == "wrong":
                figures.wrong += 1
                figures.findings.append(outcome.what)
            else:
                getattr(figures, outcome.sort)[outcome.what] += 1
        taken = [o.seconds * 1e3 for o in self.outcomes if o.sort == "right"]
        if taken:
            figures.p50_ms, figures.p99_ms = (float(v) for v in np.percentile(taken, [50, 99]))
