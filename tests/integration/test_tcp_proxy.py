"""The proxy does to a connection what each fault says."""

import socket
import threading
import time

import pytest

from tests.tcp_proxy import Fault, TcpProxy

pytestmark = pytest.mark.integration


@pytest.fixture
def echo():
    """Port of a server that answers what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass
        connection.close()

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo):
    with TcpProxy(echo) as made:
        yield made


@pytest.fixture
def client(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as made:
        ask(made, b"hello")
        yield made


def ask(client, data):
    client.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = client.recv(65536)
        if not piece:
            break
        got += piece
    assert got == data


def test_without_a_fault_bytes_pass(client):
    ask(client, b"x" * 1_000_000)


def test_delay(proxy, client):
    proxy.delay, proxy.fault = 0.15, Fault.DELAY
    started = time.monotonic()
    ask(client, b"slow")
    assert time.monotonic() - started >= 0.3


def test_reset_reaches_both_sides_and_new_connections_pass(proxy, client):
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        ask(again, b"back")
    assert proxy.connections == 2


def test_a_half_open_connection_answers_nothing_and_stays_open(proxy, client):
    proxy.fault = Fault.SWALLOW
    client.settimeout(0.3)
    client.sendall(b"anyone?")
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.fault = Fault.NONE
    client.settimeout(5)
    ask(client, b"there again")


def test_fragments_arrive_whole(proxy, client):
    proxy.fault = Fault.FRAGMENTS
    ask(client, bytes(range(256)))


def test_a_cut_answer_is_half_there_and_then_reset(proxy, client):
    proxy.fault = Fault.CUT
    client.sendall(b"0123456789")
    got = b""
    with pytest.raises(ConnectionResetError):
        while piece := client.recv(100):
            got += piece
    assert got in (b"", b"01234")


def test_refused_until_it_is_over(proxy, client):
    proxy.fault = Fault.REFUSE
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionError):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
            again.recv(1)
            raise AssertionError("not refused")
    proxy.fault = Fault.NONE
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        ask(again, b"back")


def test_a_target_that_is_down_resets():
    with TcpProxy() as proxy:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            proxy.target_port = probe.getsockname()[1]
        with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            client.recv(1)
            raise AssertionError("not reset")
