"""The network client under the Kafka clients, which says when credentials are refused."""

from __future__ import annotations

from typing import Any, Final

from kafka.errors import AuthorizationError, IllegalSaslStateError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError
from kafka.net.compat import KafkaNetClient

REFUSED: Final = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError, AuthorizationError)


class NoticingClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """Ends the first connecting at the first refusal, with the broker's error.

    kafka-python 3.0.12 means to do that too, but a failed handshake does not reach the place where it remembers refusals: it
    tries until its time is up and raises a time-out, without the reason. It also drops an answer that arrives together with the
    end of the connection, which is how brokers refuse a password.
    """

    def __init__(self, net: Any = None, manager: Any = None, **configs: Any) -> None:
        super().__init__(net=net, manager=manager, **configs)
        manager = self._manager
        connect = manager.get_connection
        refusals: list[Exception] = []

        def note(error: Exception) -> None:
            if isinstance(error, REFUSED):
                refusals.append(error)

        def noticing(node_id: Any, *args: Any, **kwargs: Any) -> Any:
            if manager.bootstrapped:
                return connect(node_id, *args, **kwargs)
            if refusals:
                raise refusals[0]
            connection = connect(node_id, *args, **kwargs)
            connection.init_future.add_errback(note)
            return connection

        build = manager._build_transport

        async def building(*args: Any, **kwargs: Any) -> Any:
            transport = await build(*args, **kwargs)
            receive = transport._sock_recv

            def receiving() -> tuple[bytes, Exception | None]:
                data, error = receive()
                # The next call meets the end again.
                return data, None if data else error

            transport._sock_recv = receiving
            return transport

        manager.get_connection = noticing
        manager._build_transport = building
