"""`Client`: asks a moontide server over HTTP and waits."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from typing import TypeVar

import pyarrow as pa

from moontide.client import wire
from moontide.client.calls import Addresses, Call, Patience, unanswered
from moontide.client.pool import Lost, Pool
from moontide.errors import MoontideError

T = TypeVar("T")


class Client:
    """A ranking service's side of ``python -m serving``. Thread-safe; keeps its connections open; one per process is enough, made
    after a fork.

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
        self._headers = wire.headers(token)
        self._timeout = timeout
        self._pool = Pool(self._addresses.urls, tls, self._patience.clock)

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
        self._pool.close()

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
                headers = self._headers[question.content_type]
                answer = self._pool.post(attempt.url, question.path, headers, question.body, attempt.seconds)
                found = wire.result(question, answer, attempt.url)
            except Lost as error:
                call.failed(attempt, unanswered(question.path, attempt, error), error.gone)
            except wire.Unavailable as error:
                call.failed(attempt, error)
            except MoontideError:
                call.answered(attempt)
                raise
            else:
                call.answered(attempt)
                return found
