"""How fresh and how complete each space is: counted over the online store, up to a bound, and remembered for some seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.live import LiveSpaces
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import Status
from moontide.views import ViewSpec, embedding_view
from serving.client import RankingClient
from serving.http.console_catalog import Catalog
from serving.similar import SCAN_FOREIGN
from serving.table import VectorTables

#: Records, and catalog rows, that are looked at for one space.
COUNTED: Final = 200_000
_REMEMBERED_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class SpaceState:
    """One space as it is now. Times are microseconds UTC, 0 for none.

    `whole` is false where counts stopped at `COUNTED`, or are of the catalog's items alone.

    Attributes:
        records, vectors: of the online store; a tombstone is a record without a vector.
        newest_event, newest_encoded: the newest content that is there, and when it was encoded.
        catalog_items, catalog_vectors: items of the catalog, and those of them with a vector; None without a catalog.
        index_rows: None where the index cannot be asked, and then `index_problem` says why.
        table: the fields of `serving.table.TableState`; None without a table.
        problem: why nothing could be counted.
    """

    space: str
    dim: int
    encoder_digest: str
    records: int = 0
    vectors: int = 0
    newest_event: int = 0
    newest_encoded: int = 0
    whole: bool = True
    catalog_items: int | None = None
    catalog_vectors: int | None = None
    index_rows: int | None = None
    index_problem: str = ""
    table: dict[str, Any] | None = None
    problem: str = ""


class SpaceStates:
    """The states of all live spaces. Thread-safe: one caller counts, others wait for it.

    Args:
        client: whose store is counted.
        live: its spaces.
        catalog: what ought to have vectors, if it is known.
        monotonic: seconds.
        tables: the tables of this host, if there are any.
    """

    def __init__(
        self,
        client: RankingClient,
        live: LiveSpaces,
        catalog: Catalog | None,
        monotonic: Callable[[], float],
        tables: VectorTables | None = None,
    ) -> None:
        self._client, self._store = client, client.online
        self._live, self._catalog, self._monotonic, self._tables = live, catalog, monotonic, tables
        self._lock = threading.Lock()
        self._known: list[SpaceState] = []
        self._until = float("-inf")

    def read(self) -> list[SpaceState]:
        """One state for each live space, in the order of ``spaces.toml``; at most 5 s old.

        Raises:
            Transient: the store does not answer.
        """
        with self._lock:
            if self._monotonic() >= self._until:
                self._known = [self._state(entry.space) for entry in self._live.spaces]
                self._until = self._monotonic() + _REMEMBERED_SECONDS
            return self._known

    def _state(self, space: EmbeddingSpace) -> SpaceState:
        said: dict[str, Any] = {"space": space.id, "dim": space.dim, "encoder_digest": space.encoder_digest}
        try:
            said |= self._counted(space) | self._covered(space) | {"table": self._table(space)}
        except SpaceMismatch as error:
            return SpaceState(**said, problem=str(error))
        return SpaceState(**said, **self._indexed(space))

    def _table(self, space: EmbeddingSpace) -> dict[str, Any] | None:
        found = self._tables.states([space]) if self._tables is not None else []
        return asdict(found[0]) if found else None

    def _counted(self, space: EmbeddingSpace) -> dict[str, Any]:
        view, seen = embedding_view(space), 0
        walked = self._store.foreign_keys() <= SCAN_FOREIGN
        found = {"records": 0, "vectors": 0, "newest_event": 0, "newest_encoded": 0, "whole": walked}
        for ids in self._scanned(view) if walked else self._listed():
            seen += len(ids)
            if seen > COUNTED:
                found["whole"] = False
                break
            heads = self._store.heads(view, ids)
            found["records"] += int((heads.status != Status.ABSENT).sum())
            found["vectors"] += int(self._store.read_embeddings(space, ids).present.sum())
            found["newest_event"] = max(found["newest_event"], int(heads.event_timestamp.max(initial=0)))
            found["newest_encoded"] = max(found["newest_encoded"], int(heads.encoded_at.max(initial=0)))
        return found

    def _scanned(self, view: ViewSpec) -> Iterator[list[str]]:
        return ([str(entity) for entity in chunk] for chunk in self._store.scan(view))

    def _listed(self) -> Iterator[list[str]]:
        """Items of the catalog: where a scan of the store would take too long, they stand for it."""
        return iter(()) if self._catalog is None else _fresh(self._catalog.ids(), set())

    def _covered(self, space: EmbeddingSpace) -> dict[str, Any]:
        if self._catalog is None:
            return {}
        items: set[str] = set()
        vectors = 0
        try:
            for ids in _fresh(self._catalog.ids(), items):
                vectors += int(self._store.read_embeddings(space, ids).present.sum())
                if len(items) > COUNTED:
                    break
        except Misconfigured as error:
            if isinstance(error, SpaceMismatch):
                raise
            return {}
        return {"catalog_items": len(items), "catalog_vectors": vectors}

    def _indexed(self, space: EmbeddingSpace) -> dict[str, Any]:
        try:
            return {"index_rows": self._client.index_rows(space.id)}
        except (Transient, Misconfigured) as error:
            return {"index_problem": str(error)}


def _fresh(batches: Iterator[list[str]], seen: set[str]) -> Iterator[list[str]]:
    """The ids of each batch that came in none before."""
    for batch in batches:
        fresh = [item for item in dict.fromkeys(batch) if item not in seen]
        seen.update(fresh)
        if fresh:
            yield fresh
