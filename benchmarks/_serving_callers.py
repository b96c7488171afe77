"""Callers of an HTTP server in a process of their own, and the server that is the floor of one.

    python -m benchmarks._serving_callers call PLAN.json      N callers for some seconds; prints one JSON object
    python -m benchmarks._serving_callers echo BYTES          answers every POST with so many bytes; prints its port

A plan: port, path, kind (``arrow``, ``json`` or ``feast``), seconds, callers, folder with ``<n>.body`` and ``<n>.npy`` (the
counts each answer must hold). Every tenth answer is read and compared.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
CHECKED = 10


class Caller:
    """One kept-alive connection."""

    def __init__(self, port: int, path: str, media: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._path = path
        self._headers = {"Content-Type": media, "Accept": media}

    def post(self, body: bytes) -> bytes:
        """The body of an answer.

        Raises:
            ValueError: a status other than 200, which is its first word.
            OSError, HTTPException: the connection failed.
        """
        try:
            self._connection.request("POST", self._path, body, self._headers)
            answer = self._connection.getresponse()
            found = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status != 200:
            raise ValueError(f"{answer.status} {found[:300]!r}")
        return found


def table_of(answer: bytes) -> pa.Table:
    """An Arrow answer."""
    return pa.ipc.open_stream(answer).read_all()


def counts_of(kind: str, answer: bytes) -> NDArray[np.int32]:
    """(C, N) tiers of an answer."""
    if kind == "arrow":
        column = table_of(answer).column("counts").combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1)
    found = orjson.loads(answer)
    if kind == "feast":
        place = found["metadata"]["feature_names"].index("counts")
        return np.array(found["results"][place]["values"], np.int32)
    return np.array(found["columns"]["counts"], np.int32)


def call(plan: dict[str, Any]) -> dict[str, Any]:
    """Run a plan; latencies in milliseconds, errors by first word, wrong answers."""
    folder = Path(plan["folder"])
    bodies = [(p.read_bytes(), np.load(p.with_suffix(".npy"))) for p in sorted(folder.glob("*.body"))]
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    checks = Counter(checked=0, wrong=0)
    begun = time.perf_counter()
    ends = begun + plan["seconds"]

    def work(number: int) -> None:
        caller = Caller(plan["port"], plan["path"], ARROW if plan["kind"] == "arrow" else JSON)
        turn = number
        while time.perf_counter() < ends:
            body, expected = bodies[turn % len(bodies)]
            start = time.perf_counter()
            try:
                answer = caller.post(body)
            except (OSError, ValueError, http.client.HTTPException) as error:
                errors[str(error).split(" ", 1)[0] if isinstance(error, ValueError) else type(error).__name__] += 1
                continue
            latencies.append((time.perf_counter() - start) * 1e3)
            turn += 1
            if turn % CHECKED == number % CHECKED:
                checks["checked"] += 1
                checks["wrong"] += not np.array_equal(counts_of(plan["kind"], answer), expected)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(plan["callers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"latencies": latencies, "errors": dict(errors), **checks, "seconds": time.perf_counter() - begun}


def echo(size: int) -> None:
    """Serve until killed."""
    page = bytes(size)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    print(json.dumps(call(json.loads(Path(sys.argv[2]).read_text()))))
