"""`Client`: asks a moontide server over HTTP and waits."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from typing import TypeVar

import httpx
import pyarrow as pa

from moontide.client import wire
from moontide.client.calls import Addresses, Call, Patience
from moontide.client.connect import Wires, lost, slow, timeouts
from moontide.errors import MoontideError

T = TypeVar("T")


class Client:
    """A ranking service's side of ``python -m serving``. Thread-safe; keeps its connections open; one per process is enough.

    A user's calls all go to one server, the same for every client with these addresses, so that `features` finds what `prefetch`
    began; where that server fails, they go to the next. Calls only read, so a failed one is repeated, within `timeout`.

    Args:
        urls: base URLs of the servers, or one of them.
        token: sent as ``Authorization: Bearer``; None where the servers ask for none.
        timeout: seconds within which a call is over, waits and repeats included.
        tls: for ``https``; None: the usual authorities and checks.
        patience: how often a call is repeated, and how long a failed server is avoided.

    Raises:
        Misconfigured: no URL, one twice, or a token that fits in no header.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        timeout: float = 1.0,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._patience = patience or Patience()
        self._addresses = Addresses([urls] if isinstance(urls, str) else urls, self._patience)
        self._wires = Wires(self._addresses.urls, token, tls)
        self._timeout = timeout
        self._transport = httpx.HTTPTransport(verify=self._wires.verify, trust_env=False, limits=self._wires.limits)

    def features(
        self, user_id: str, item_ids: wire.ItemIds, *, service: str = "ctr_v1", request_id: str | None = None
    ) -> pa.Table:
        """Features of C candidates for one user: the table of `serving.RankingClient.features`, bit for bit.

        Args:
            user_id: an unknown user has no history.
            item_ids: C candidates (a list, an Arrow or NumPy array, any iterable of str), repeats allowed, 0 is fine.
            service: what to read.
            request_id: under which `prefetch` was called, and the request is logged.

        Returns:
            C rows in the order of `item_ids`; schema metadata ``service``, ``space``, ``encoder_digest``, ``simtier``,
            ``sequence_version`` and ``prefetch`` (hit, stale, late, miss or off).

        Raises:
            Misconfigured: no such service, a wrong token, or no moontide server there.
            Poison: a user or item id that cannot be one, or more candidates than the server takes.
            SpaceMismatch: the server's store holds vectors of another encoder.
            Unavailable: (a `Transient`) no server answered in time.
            TypeError: `item_ids` is one string, or nothing that can be iterated.
        """
        return self._ask(wire.features(user_id, item_ids, service, request_id))

    def prefetch(self, user_id: str, *, request_id: str, service: str = "ctr_v1") -> None:
        """Have the server read the user's side while retrieval still runs; `features` with this request id then finds it.

        Returns as soon as the server has taken it. Raises as `features`; a caller may ignore that, for `features` then reads all.
        """
        self._ask(wire.prefetch(user_id, request_id, service))

    def similar(self, item_id: str, *, k: int = 10, space: str | None = None) -> pa.Table:
        """The `k` items nearest to `item_id` by cosine, in falling order: ``item_id``, ``cosine`` float32. Raises as `features`.

        Args:
            space: None: the one that the server's default service reads.
        """
        return self._ask(wire.similar(item_id, k, space))

    def sequence(self, user_id: str, *, service: str = "ctr_v1", length: int | None = None) -> pa.Table:
        """The user's behaviours, newest last: the table of `serving.RankingClient.sequence`. Raises as `features`.

        Args:
            length: newest behaviours wanted; None: all that are kept.
        """
        return self._ask(wire.sequence(user_id, service, length))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: wire.Question[T]) -> T:
        call = Call(self._addresses, question.key, self._timeout, self._patience)
        while True:
            attempt = call.next()
            if attempt.wait:
                time.sleep(attempt.wait)
            try:
                answer = self._send(question, attempt.url, attempt.seconds)
                found = wire.result(question, answer, attempt.url)
            except httpx.TransportError as error:
                call.failed(attempt, *lost(question.path, attempt, error))
            except wire.Unavailable as error:
                call.failed(attempt, error)
            except MoontideError:
                call.answered(attempt)
                raise
            else:
                call.answered(attempt)
                return found

    def _send(self, question: wire.Question[T], url: str, seconds: float) -> wire.Answer:
        ends = self._patience.clock() + seconds
        request = self._wires.request(question, url, timeouts(seconds))
        response = self._transport.handle_request(request)
        body = []
        try:
            # A timeout of the transport is one of each read: a server that sends byte after byte would never meet it.
            for chunk in response.iter_raw():
                body.append(chunk)
                if self._patience.clock() > ends:
                    raise slow(seconds)
        finally:
            response.close()
        return wire.Answer(response.status_code, response.headers, b"".join(body))
