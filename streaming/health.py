"""Three pages over HTTP for probes and Prometheus: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from moontide.errors import Misconfigured
from streaming.metrics import Metrics

#: Seconds a client may take; a slow one holds a thread, never the consumer.
CLIENT_SECONDS: Final = 5.0
#: Clients served at once; more are turned away.
MOST_CLIENTS: Final = 16

Check = Callable[[], list[str]]
Page = tuple[HTTPStatus, str, bytes]


class HealthServer:
    """Answers GET and HEAD from a thread of its own. A check returns what is wrong, in words without secrets; nothing is well.

    Args:
        host, port: where to listen; port 0 takes a free one. Anyone who can reach it can read it.
        live: problems only a restart solves; ``/healthz`` answers 503 with them.
        ready: problems that may pass; ``/readyz`` answers 503 with them.
        metrics: what ``/metrics`` shows.
    """

    def __init__(self, host: str, port: int, *, live: Check, ready: Check, metrics: Metrics) -> None:
        self._address = (host, port)
        self._pages: dict[str, Callable[[], Page]] = {
            "/healthz": lambda: _verdict(live()),
            "/readyz": lambda: _verdict(ready()),
            "/metrics": lambda: _metrics(metrics),
        }
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; before `start` the one asked for."""
        return self._address[1] if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Listen.

        Raises:
            Misconfigured: the host is not of this machine, or the port is taken or not allowed.
        """
        try:
            self._server = _Server(self._address, self._pages)
        except (OSError, OverflowError) as error:
            raise Misconfigured(
                f"expected a free port for /healthz and /metrics, got {self._address[0]}:{self._address[1]}: {error}; "
                "set MOONTIDE_STREAM_PORT (0 takes a free one) or MOONTIDE_STREAM_HOST"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; safe to call twice, or before `start`."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            self._address = (self._address[0], int(server.server_address[1]))
            server.shutdown()
            server.server_close()
            self._thread.join(timeout=CLIENT_SECONDS)


def _verdict(problems: list[str]) -> Page:
    if not problems:
        return HTTPStatus.OK, "text/plain; charset=utf-8", b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, "application/json", json.dumps({"problems": problems}).encode() + b"\n"


def _metrics(metrics: Metrics) -> Page:
    body, content_type = metrics.render()
    return HTTPStatus.OK, content_type, body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * MOST_CLIENTS

    def __init__(self, address: tuple[str, int], pages: dict[str, Callable[[], Page]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages = pages
        self._free = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As the parent, without its reverse name look-up, which can hang for seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own business."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_SECONDS
    server_version = "moontide"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        status, kind, body = self._render(page) if page else (HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _render(self, page: Callable[[], Page]) -> Page:
        try:
            return page()
        except Exception as error:  # noqa: BLE001 - the edge: a check that fails is a problem to report, without its traceback
            return _verdict([f"the check itself failed: {type(error).__name__}"])

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line, and nothing of what the client sent."""
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Nothing: a probe every second would bury what matters."""
