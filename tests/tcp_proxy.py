"""A TCP proxy on loopback that fails as networks fail, and can be told how while connections are open.

``with TcpProxy(target_port) as proxy:`` and connect to ``127.0.0.1:proxy.port``.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from enum import Enum

_CHUNK = 64 << 10


class Fault(Enum):
    """What happens to each connection, open ones too."""

    NONE = "none"
    DELAY = "delay"
    """Each piece, either way, is passed on after `TcpProxy.delay` seconds."""
    SWALLOW = "swallow"
    """Half open: what is sent is read and dropped, nothing is answered, nothing is closed."""
    FRAGMENTS = "fragments"
    """Each byte of an answer travels alone."""
    CUT = "cut"
    """Half of the next piece of each answer arrives, then the connection is reset."""
    REFUSE = "refuse"
    """Open connections are reset, and new ones as soon as they are made."""


class TcpProxy:
    """Forwards from a free port of 127.0.0.1 to `target_port`, which may be set until the first connection."""

    def __init__(self, target_port: int = 0):
        self.target_port = target_port
        self.delay = 0.1
        self.connections = 0
        self._fault = Fault.NONE
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.REFUSE:
            self.reset()

    def reset(self) -> None:
        """Resets (RST) every open connection, on both sides; new ones are accepted."""
        with self._lock:
            found, self._open = self._open, set()
        for each in found:
            _abort(each)

    def close(self) -> None:
        self._closed = True
        # A blocked accept does not notice that its socket was closed.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._fault is Fault.REFUSE:
                _abort(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), timeout=5)
            except OSError:
                _abort(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, sink, answers in ((client, server, False), (server, client, True)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink, answers), daemon=True).start()

    def _pump(self, source, sink, answers) -> None:
        try:
            while data := source.recv(_CHUNK):
                self._pass_on(data, sink, answers)
            with self._lock:
                # A reset looks like an end here too, and must not become one (FIN) for the other side.
                if source in self._open and self._fault is not Fault.SWALLOW:
                    sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(source, sink)

    def _pass_on(self, data, sink, answers) -> None:
        fault = self._fault
        if fault is Fault.SWALLOW:
            return
        if fault is Fault.DELAY:
            time.sleep(self.delay)
        if fault is Fault.FRAGMENTS and answers:
            for each in data:
                sink.sendall(bytes([each]))
            return
        if fault is Fault.CUT and answers:
            sink.sendall(data[: len(data) // 2])
            raise ConnectionResetError
        sink.sendall(data)

    def _drop(self, *sockets) -> None:
        with self._lock:
            self._open -= set(sockets)
        for each in sockets:
            _abort(each)


def _abort(each: socket.socket) -> None:
    """Closes with RST instead of FIN, also under a thread that is blocked in recv."""
    try:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Only a shutdown wakes a blocked recv, but one of the write side would send the FIN.
        each.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    each.close()
