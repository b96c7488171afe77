"""What an error of Redis means to the caller, without the password in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote, urlsplit

from redis import exceptions

from moontide.errors import Misconfigured, Transient

_UNAVAILABLE: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.ClusterError,
    exceptions.OutOfMemoryError,
    exceptions.NoScriptError,
)
#: Answers of a server that is starting, saving, failing over or busy; inside a script's error where a script met them.
_BUSY: Final = re.compile(
    r"(?<![\w'\"])(NOREPLICAS|BUSY|MISCONF|LOADING|NOSCRIPT|READONLY|OOM|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|UNKILLABLE) "
)
_NO_CLUSTER: Final = "cluster mode is not enabled"
_REFUSED: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)


class RedisErrors:
    """Turns errors of the client into `Transient` and `Misconfigured`: ``with errors(): ...``.

    Args:
        url: where the server is; shown without user and password.

    Raises:
        Misconfigured: no ``redis://`` or ``rediss://`` URL.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            if not parts.hostname:
                raise ValueError
            self.where = f"online store {parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"
        except ValueError:
            raise Misconfigured("online store: expected a redis:// or rediss:// URL; check MOONTIDE_REDIS_URL") from None
        if parts.scheme not in ("redis", "rediss"):
            raise Misconfigured(f"{self.where}: expected a redis:// or rediss:// URL; check MOONTIDE_REDIS_URL")
        self._secret = unquote(parts.password or "")

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Translate what is raised inside."""
        try:
            yield
        except _REFUSED as error:
            raise Misconfigured(
                f"{self.where}: expected valid credentials, got {self._shown(error)}; check MOONTIDE_REDIS_URL"
            ) from error
        except _UNAVAILABLE as error:
            raise Transient(f"{self.where}: expected an answer, got {self._shown(error)}; try again") from error
        except exceptions.RedisClusterException as error:  # not a RedisError; mostly: no node answers
            if _NO_CLUSTER in str(error).lower():
                raise Misconfigured(
                    f"{self.where}: expected a node of a Redis Cluster, got {self._shown(error)}; unset MOONTIDE_REDIS_CLUSTER"
                ) from error
            raise Transient(f"{self.where}: expected an answer, got {self._shown(error)}; try again") from error
        except exceptions.RedisError as error:
            if _BUSY.search(str(error)):
                raise Transient(f"{self.where}: expected an answer, got {self._shown(error)}; try again") from error
            raise Misconfigured(
                f"{self.where}: expected Redis 6.2 or newer with keys of moontide's own, got {self._shown(error)}; "
                "check MOONTIDE_REDIS_URL"
            ) from error

    def _shown(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        return text.replace(self._secret, "***") if self._secret else text
