"""`AsyncClient`: `Client` for asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import TypeVar

import httpx
import pyarrow as pa

from moontide.client import wire
from moontide.client.calls import Addresses, Call, Patience
from moontide.client.connect import Wires, lost, slow, timeouts
from moontide.errors import MoontideError

T = TypeVar("T")


class AsyncClient:
    """`moontide.client.Client` with its methods awaited; arguments, results and errors are the same. For one event loop."""

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
        self._transport = httpx.AsyncHTTPTransport(verify=self._wires.verify, trust_env=False, limits=self._wires.limits)

    async def features(
        self, user_id: str, item_ids: wire.ItemIds, *, service: str = "ctr_v1", request_id: str | None = None
    ) -> pa.Table:
        """See `Client.features`."""
        return await self._ask(wire.features(user_id, item_ids, service, request_id))

    async def prefetch(self, user_id: str, *, request_id: str, service: str = "ctr_v1") -> None:
        """See `Client.prefetch`."""
        await self._ask(wire.prefetch(user_id, request_id, service))

    async def similar(self, item_id: str, *, k: int = 10, space: str | None = None) -> pa.Table:
        """See `Client.similar`."""
        return await self._ask(wire.similar(item_id, k, space))

    async def sequence(self, user_id: str, *, service: str = "ctr_v1", length: int | None = None) -> pa.Table:
        """See `Client.sequence`."""
        return await self._ask(wire.sequence(user_id, service, length))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, question: wire.Question[T]) -> T:
        call = Call(self._addresses, question.key, self._timeout, self._patience)
        while True:
            attempt = call.next()
            if attempt.wait:
                await asyncio.sleep(attempt.wait)
            try:
                answer = await self._send(question, attempt.url, attempt.seconds)
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

    async def _send(self, question: wire.Question[T], url: str, seconds: float) -> wire.Answer:
        request = self._wires.request(question, url, timeouts(seconds))
        try:
            async with asyncio.timeout(seconds):
                response = await self._transport.handle_async_request(request)
                try:
                    body = b"".join([chunk async for chunk in response.aiter_raw()])
                finally:
                    await response.aclose()
        except TimeoutError:
            raise slow(seconds) from None
        return wire.Answer(response.status_code, response.headers, body)
