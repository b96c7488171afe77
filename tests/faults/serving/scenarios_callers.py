"""Faults of those who ask: slow ones, and ones that send what is no request. Whoever else asks meanwhile is answered as ever."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.faults.serving import values
from tests.faults.serving.asking import Callers, Connection, arrow_body, judged
from tests.faults.serving.figures import Figures
from tests.faults.serving.sites import BODY_SECONDS

#: A slow connection may live so long beyond its limit: keep-alive and the pieces that were under way.
GRACE = 10.0
#: How much slower the others' p99 may be while slow ones are connected.
SLOWER = 10.0
#: Answers of more than 1 MB each that nobody reads: together more than the 4 MB a socket may buffer.
UNREAD = 8
UNREAD_KIND = "answer not read"


def slow_clients(sites, size):
    """Connections that send headers or a body byte by byte, or read no answer: cut off, and nobody else notices."""
    figures, site = Figures("slow_clients"), sites.lmdb()
    count = max(4, round(60 * size))
    # Each of the last kind asks for as much work as hundreds of ordinary requests: a few are enough.
    counts = dict.fromkeys(_SLOW, count) | {UNREAD_KIND: max(2, count // 10)}
    with Callers(site.port, site.ledger) as alone:
        alone.wait("right", after=0.0, count=100)
    lived: dict[str, list[float]] = {}
    with Callers(site.port, site.ledger) as callers:
        callers.wait("right", after=0.0, count=20)
        threads = [
            threading.Thread(target=_timed, args=(lived, kind, act, site.port), daemon=True, name=kind)
            for kind, act in _SLOW.items()
            for _ in range(counts[kind])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BODY_SECONDS + GRACE + 20)
        callers.wait("right", after=time.monotonic(), count=20)
    callers.count(figures)
    figures.faults = len(threads)
    before = Figures("")
    alone.count(before)
    figures.notes.append(f"p99 without the slow ones {before.p99_ms:.1f} ms, with {len(threads)} of them {figures.p99_ms:.1f} ms")
    for kind in _SLOW:
        found = lived.get(kind, [])
        figures.expect(len(found) == counts[kind], f"{kind}: {counts[kind] - len(found)} of {counts[kind]} were never cut off")
        if found:
            figures.notes.append(f"{kind}: cut off after {min(found):.1f} to {max(found):.1f} s")
            figures.expect(max(found) < BODY_SECONDS + GRACE, f"{kind}: cut off only after {max(found):.1f} s")
    figures.expect(not figures.typed and not figures.untyped, f"others noticed: {figures.typed} {figures.untyped}")
    figures.expect(
        figures.p99_ms < max(250.0, SLOWER * before.p99_ms),
        f"others had to wait: p99 {before.p99_ms:.1f} -> {figures.p99_ms:.1f} ms",
    )
    return figures


def _timed(lived, kind, act, port):
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=BODY_SECONDS + GRACE) as connection:
        if _cut(act, connection):
            lived.setdefault(kind, []).append(time.monotonic() - begun)


def _cut(act, connection):
    """Whether the server ended the connection while we dawdled."""
    try:
        return act(connection)
    except (ConnectionError, BrokenPipeError):
        return True
    except TimeoutError:
        return False


def _headers(connection):
    for byte in b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 10_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)
        if _ended(connection):
            return True
    return False


def _body(connection):
    connection.sendall(_head(1_000))
    for _ in range(1_000):
        connection.sendall(b"{")
        time.sleep(0.05)
        if _ended(connection):
            return True
    return False


def _answer(connection):
    """Asks for more than the system buffers between two sockets, and takes nothing of it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    body = json.dumps({"user_id": values.USER, "item_ids": [values.item_id(n % values.ITEMS) for n in range(5_000)]}).encode()
    connection.sendall((_head(len(body)) + body) * UNREAD)
    ends = time.monotonic() + BODY_SECONDS + GRACE
    while _held(connection) and time.monotonic() < ends:
        time.sleep(0.05)
    return not _held(connection)


def _held(connection):
    """Whether the server's end is open: what it has given up may still wait in the system for a reader, which the reader cannot see."""
    try:
        mine, theirs = (f"0100007F:{port:04X}" for port in (connection.getsockname()[1], connection.getpeername()[1]))
    except OSError:
        # It was reset: the server had not taken all the requests either.
        return False
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(line[1:4] == [theirs, mine, "01"] for line in lines)


_SLOW = {"slow headers": _headers, "slow body": _body, UNREAD_KIND: _answer}


def _head(length):
    return f"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


def _ended(connection):
    """Whether the other side has closed; an answer before that is read away."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            if connection.recv(1 << 16) == b"":
                return True
    connection.settimeout(BODY_SECONDS + GRACE)
    return False


def malformed_requests(sites, size):
    """Requests that schemathesis makes up from the OpenAPI document, Arrow streams with bytes changed, bytes that are no HTTP."""
    figures, site = Figures("malformed_requests"), sites.lmdb()
    with Callers(site.port, site.ledger, count=1, pause=0.05) as callers:
        sent = _schemathesis(site, round(10_000 * size), figures)
        sent += _mutated(site, round(2_000 * size), figures)
        sent += _no_http(site, round(500 * size), figures)
        callers.wait("right", after=time.monotonic(), count=5)
    callers.count(figures)
    figures.faults = sent
    figures.expect(not figures.typed and not figures.untyped, f"others noticed: {figures.typed} {figures.untyped}")
    return figures


def _schemathesis(site, wanted, figures):
    """The command against the running server; how many requests the server counted."""
    url = f"http://127.0.0.1:{site.port}"
    before = _answered(site)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--url", url]
    options = ["--seed", "1", "--no-color", "--workers", "2", "--checks", "not_a_server_error,content_type_conformance"]
    rounds = 0
    while (sent := _answered(site) - before) < wanted and rounds < 20:
        rounds += 1
        options[1] = str(rounds)
        examples = ["--max-examples", str(max(10, wanted // 8))]
        done = subprocess.run([*command, *options, *examples], capture_output=True, text=True, check=False, timeout=1_200)
        figures.expect(done.returncode == 0, f"schemathesis, seed {rounds}: {done.stdout[-1_500:]}")
        if done.returncode:
            break
    figures.notes.append(f"{_answered(site) - before:,.0f} requests by schemathesis")
    return round(sent)


def _answered(site):
    """Requests that all workers have answered, by their own metrics."""
    import urllib.request

    text = urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=10).read().decode()
    return sum(float(v) for v in re.findall(r"^moontide_serving_requests_total\{[^}]*\} ([\d.e+]+)$", text, re.M))


def _mutated(site, count, figures):
    """A good Arrow request with bytes changed: answered 200 (the change was harmless) or with a typed 4xx."""
    rng, seen = np.random.default_rng(3), Counter()
    good = np.frombuffer(arrow_body([values.item_id(n) for n in range(20)]), np.uint8)
    connection = Connection(site.port)
    for _ in range(count):
        body = good.copy()
        body[rng.integers(0, len(body), int(rng.integers(1, 6)))] = rng.integers(0, 256)
        length = int(rng.integers(1, len(body))) if rng.random() < 0.3 else len(body)
        answer = connection.ask("/v1/features", body[:length].tobytes())
        sort, what = ("right", "200") if answer.status == 200 else judged(answer)
        seen[what] += 1
        figures.expect(sort == "right" or (sort == "typed" and answer.status < 500), f"changed Arrow bytes: {what}")
    connection.close()
    figures.notes.append(f"changed Arrow streams: {dict(seen)}")
    return count


def _no_http(site, count, figures):
    """Random bytes on a connection: a typed 400, or the connection closed."""
    rng = np.random.default_rng(4)
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", site.port), timeout=BODY_SECONDS + GRACE) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(rng.bytes(int(rng.integers(1, 300))) + b"\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(1 << 16)
                figures.expect(answer == b"" or answer.startswith(b"HTTP/1.1 400 "), f"bytes that are no HTTP: {answer[:60]!r}")
    return count
