"""A connection to Milvus: a server, or milvus-lite on a file of this process.

milvus-lite has one owner process per file, and it loses acknowledged writes that follow a failed one, because they land behind
the torn record in its log. So after any failed write the file is closed and opened again before the error is reported; what
was acknowledged before is recovered, and nothing is ever written behind a torn record.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from grpc import RpcError, StatusCode  # type: ignore[import-untyped]
from pymilvus import MilvusClient
from pymilvus.exceptions import ConnectionConfigException, MilvusException

from moontide.errors import Misconfigured, MoontideError, Transient
from moontide.stores.index_lite import alias_entries, clear_derived, collection_entries, is_owned, require_whole
from moontide.stores.offline_files import fsync

T = TypeVar("T")
NOT_FOUND: Final = 100
_LITE_SUFFIX: Final = ".db"
_FAILURES: Final = (MilvusException, RpcError)
#: Not let in: gRPC's words for it, and Milvus' (not authenticated, not permitted; before 2.3: permission denied).
_REFUSED: Final = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, 1_400, 1_401)
_REFUSED_BEFORE_2_3: Final = 3


class MilvusConnection:
    """One connection per address and process, shared and counted (`acquire`, `close`). Thread-safe; not usable after a fork.

    Args:
        uri: ``http(s)://host:port``, or the path of a milvus-lite file (``*.db``).
        token: ``user:password`` or API key; empty for none.
        timeout: seconds one call may take.

    Attributes:
        generation: rises with every reconnect and drop; what was loaded or checked in an older one is to be so again.
    """

    _open: Final[dict[tuple[str, ...], MilvusConnection]] = {}
    _open_lock: Final = threading.Lock()

    def __init__(self, uri: str, token: str, timeout: float) -> None:
        self.path = _lite_path(uri)
        self.timeout = timeout
        self.generation = 0
        self._uri = uri
        self._token = token
        self._key = _key(uri, token)
        self._users = 0
        self._lock = threading.RLock()
        self._client: MilvusClient | None = None
        self._durable: dict[Path, tuple[int, int]] = {}
        self._owns = False

    @classmethod
    def acquire(cls, uri: str, token: str, timeout: float) -> MilvusConnection:
        """The process's connection to `uri`, opened.

        Raises:
            Misconfigured: no such kind of address, bad credentials, or a file that another process owns or that was cut short.
            Transient: the server does not answer.
        """
        with cls._open_lock:
            found = cls._open.get(_key(uri, token)) or cls(uri, token, timeout)
            found.client()
            cls._open[found._key] = found
            found._users += 1
            return found

    def close(self) -> None:
        """Give the connection back; the last user closes it, and a file with it."""
        with self._open_lock:
            self._users -= 1
            if not self._users:
                self._open.pop(self._key, None)
                self._release()

    def client(self) -> MilvusClient:
        """The live client, opened anew where it was dropped; raises as `acquire`."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def read(self, what: str, call: Callable[[MilvusClient], T]) -> T:
        """Run a call that changes nothing.

        Raises:
            Misconfigured: no such collection, or the server refuses us.
            Transient: anything else; the next call connects anew.
        """
        client = self.client()
        try:
            return call(client)
        except _FAILURES as error:
            if not _refused(error) and _code(error) != NOT_FOUND:
                self._drop(client, release=False)
            raise self._translated(what, error) from error

    def write(self, what: str, call: Callable[[MilvusClient], T]) -> T:
        """Run a call that writes; raises as `read`, after milvus-lite's file was closed (the next call opens it)."""
        client = self.client()
        try:
            return call(client)
        except _FAILURES as error:
            self._drop(client, release=True)
            raise self._translated(what, error) from error

    def expire(self) -> None:
        """Have every user of this connection check its collections again: one was dropped."""
        with self._lock:
            self.generation += 1

    def make_durable(self, collection: str) -> None:
        """Bring milvus-lite's files of a flushed collection, and its aliases, from the page cache to the disk; a server does so
        itself.
        """
        if self.path is not None:
            self._fsync(collection_entries(self.path, collection))

    def make_aliases_durable(self) -> None:
        """As `make_durable`, for the aliases alone."""
        if self.path is not None:
            self._fsync(alias_entries(self.path))

    def _fsync(self, entries: Iterable[Path]) -> None:
        for entry in entries:
            with suppress(FileNotFoundError):  # folded away in the background, or not made yet
                stat = entry.stat()
                state = (stat.st_mtime_ns, stat.st_size)
                if self._durable.get(entry) != state:
                    fsync(entry)
                    self._durable[entry] = state

    def _drop(self, client: Any, *, release: bool) -> None:
        with self._lock:
            if self._client is client:
                (self._release if release else self._disconnect)()

    def _disconnect(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
                self.generation += 1

    def _release(self) -> None:
        with self._lock:
            self._disconnect()
            if self.path is not None:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(str(self.path))
                self._owns = False

    def _connect(self) -> MilvusClient:
        if self.path is None:
            return self._dial(self._uri)
        if self.path.is_file():
            raise Misconfigured(
                f"index {self.path}: expected a milvus-lite 3 folder, got a file (milvus-lite 2 cannot be read); "
                "move it away and backfill the index"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(
                f"index {self.path}: expected a folder that can be written, got: {error}; set MOONTIDE_HOME or MOONTIDE_INDEX_URI"
            ) from error
        # After a failed read the file is still open here, and its lock is our own.
        if not self._owns:
            if is_owned(self.path):
                raise Misconfigured(
                    f"index {self.path}: expected to own it, got a file that another process has open (milvus-lite has one "
                    f"owner); stop it, or share it: `milvus-lite server --host 127.0.0.1 --data-dir {self.path}`, MOONTIDE_INDEX_URI=http://127.0.0.1:19530"
                )
            require_whole(self.path)
            clear_derived(self.path)
        self._owns = True
        try:
            return self._dial(str(self.path))
        except MoontideError:
            self._release()
            raise

    def _dial(self, uri: str) -> MilvusClient:
        try:
            return MilvusClient(uri=uri, token=self._token, timeout=self.timeout)
        except ValueError:  # it may quote a part of the password, so it is not chained
            raise Misconfigured(f"index: expected host:port, got {_where(uri)}; check MOONTIDE_INDEX_URI") from None
        except ConnectionConfigException as error:
            shown = self._shown(error)
            if self.path is not None:
                raise Transient(f"index {uri}: expected milvus-lite to open it, got: {shown}; see its log") from error
            # The client's own error quotes the address with its password, so it is not chained.
            raise Misconfigured(
                f"index: expected a Milvus URI or a path ending in .db, got {_where(uri)}: {shown}; check MOONTIDE_INDEX_URI"
            ) from None
        except _FAILURES as error:
            raise self._translated(f"connect to {_where(uri)}", error) from error

    def _translated(self, what: str, error: Any) -> Misconfigured | Transient:
        got = self._shown(error)
        if _code(error) == NOT_FOUND:
            return Misconfigured(f"index: {what}: expected the collection to exist, got: {got}; backfill it, or ensure() it")
        if _refused(error):
            return Misconfigured(f"index: {what}: expected to be let in, got: {got}; set MOONTIDE_INDEX_TOKEN")
        return Transient(f"index: {what}: expected success, got: {got}; write again what was not flushed")

    def _shown(self, error: Any) -> str:
        text = str(error)
        if self.path is not None:
            return text
        text = text.replace(self._uri, _where(self._uri))
        for secret in (unquote(_credentials(self._uri)), _credentials(self._uri), self._token.partition(":")[2] or self._token):
            text = text.replace(secret, "***") if secret else text
        return text


def _lite_path(uri: str) -> Path | None:
    return Path(uri).absolute() if uri.endswith(_LITE_SUFFIX) and "://" not in uri else None


def _key(uri: str, token: str) -> tuple[str, ...]:
    """What a process opens once: a milvus-lite file, however it is spelt, or a server as one user."""
    path = _lite_path(uri)
    return (uri, token) if path is None else (str(path.resolve()),)


def _where(uri: str) -> str:
    """An address without user, password, path and query."""
    if "://" not in uri:
        return uri
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0].partition('?')[0]}"


def _credentials(uri: str) -> str:
    """The password in an address, as it is written there; empty where there is none."""
    return uri.partition("://")[2].rpartition("@")[0].partition(":")[2]


def _code(error: Any) -> object:
    code = getattr(error, "code", None)
    return code() if callable(code) else code


def _refused(error: Any) -> bool:
    return _code(error) in _REFUSED or getattr(error, "compatible_code", None) == _REFUSED_BEFORE_2_3
