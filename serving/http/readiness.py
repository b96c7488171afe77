"""Whether this worker can answer: asked by probes, so it answers soon and asks the stores once a second at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from moontide.errors import Misconfigured, MoontideError, Poison, SpaceMismatch, Transient
from moontide.live import LiveSpaces
from serving.client import RankingClient


class Loading(Transient):
    """Something is being read in for the first time."""


#: Seconds a verdict stands.
_STANDS: Final = 1.0
#: An id that nothing has: reading it asks the store and finds nothing.
_NOBODY: Final = "moontide-readyz"
_KINDS: Final = (
    (SpaceMismatch, "space-mismatch"),
    (Transient, "transient"),
    (Poison, "poison"),
    (Misconfigured, "misconfigured"),
)

#: A check does nothing, or raises a `MoontideError`.
Check = Callable[[], None]


class Readiness:
    """Runs checks in a thread of its own, so that a store that hangs does not hang the probe.

    Args:
        checks: by name.
        seconds: a verdict may take.
        monotonic: seconds.
    """

    def __init__(self, checks: Mapping[str, Check], *, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._checks, self._seconds, self._monotonic = dict(checks), seconds, monotonic
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ready")
        self._asked: Future[list[dict[str, str]]] | None = None
        self._at = 0.0

    async def problems(self) -> list[dict[str, str]]:
        """What is wrong, as ``check``, ``kind`` and ``detail``; the kinds are loading, transient, misconfigured, space-mismatch,
        timeout and internal.
        """
        now = self._monotonic()
        if self._asked is None or (self._asked.done() and now - self._at >= _STANDS):
            self._asked, self._at = self._pool.submit(self._ask), now
        asked = asyncio.wrap_future(self._asked)
        done, _ = await asyncio.wait({asked}, timeout=self._seconds)
        return asked.result() if done else [_problem("stores", "timeout", f"no answer within {self._seconds:g} s")]

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown(cancel_futures=True)

    def _ask(self) -> list[dict[str, str]]:
        return [found for name, check in self._checks.items() if (found := _verdict(name, check)) is not None]


def store_checks(client: RankingClient, live: LiveSpaces) -> dict[str, Check]:
    """One check a service: its sequence and its vectors can be read."""

    def reads(service: str) -> Check:
        return lambda: _discard(client.sequence(_NOBODY, service=service, length=1))

    return {f"service {service.name}": reads(service.name) for service in live.services}


def _verdict(name: str, check: Check) -> dict[str, str] | None:
    try:
        check()
    except Loading as error:
        return _problem(name, "loading", str(error))
    except MoontideError as error:
        kind = next((word for base, word in _KINDS if isinstance(error, base)), "internal")
        # What a store says may name hosts and folders: the log of the worker has it.
        detail = {"transient": "a store does not answer; it may again", "misconfigured": "the set-up is wrong"}.get(kind, kind)
        return _problem(name, kind, detail)
    except Exception as error:  # noqa: BLE001 - the edge: a check that fails is a problem to report, without its traceback
        return _problem(name, "internal", f"the check itself failed: {type(error).__name__}")
    return None


def _problem(check: str, kind: str, detail: str) -> dict[str, str]:
    return {"check": check, "kind": kind, "detail": detail}


def _discard(_: object) -> None:
    return None
