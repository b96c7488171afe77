"""The items nearest to an item: exactly, from whatever holds the space's vectors nearest by, else by the index.

Three sources, in this order: the in-process table; the index where it is a server; every vector of the online store where they
are few. A milvus-lite index comes last, and is given back after each call: it has one owner process, the consumer needs it, and
a scan of few vectors is faster than opening it (measured: 9 ms against 100 to 150 ms at 4,800 vectors of 128 dims).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import pyarrow as pa

from moontide import names
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.neighbours import Block, Hits, in_blocks, in_index, query_of, store_blocks
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore, VectorIndex

MAX_NEIGHBOURS: Final = 10_000
#: Vectors of a space that are scanned for one call where nothing else answers.
SCAN_ROWS: Final = 50_000
#: Keys of others that such a scan may walk through, where the store cannot go straight to a view: a second or so.
SCAN_FOREIGN: Final = 1_000_000
#: Time of one call of the index, and how long one that failed is left alone.
_INDEX_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 5.0


@runtime_checkable
class BlockSource(Protocol):
    """Vectors in this process, by space."""

    def scan_blocks(self, space: EmbeddingSpace) -> Iterator[Block] | None:
        """Every vector of the space, in blocks of bounded size; None where they are not all here."""


@dataclass(frozen=True, slots=True)
class Similar:
    """What was found: (item id, cosine) in falling order of cosine, and by what: ``table``, ``index`` or ``scan``."""

    space: EmbeddingSpace
    hits: Hits
    source: str

    def to_arrow(self) -> pa.Table:
        """``item_id`` string and ``cosine`` float32; metadata ``space``, ``encoder_digest``, ``source``."""
        columns = {
            names.ITEM_ID: pa.array([item for item, _ in self.hits], pa.string()),
            "cosine": pa.array([cosine for _, cosine in self.hits], pa.float32()),
        }
        metadata = {"space": self.space.id, "encoder_digest": self.space.encoder_digest, "source": self.source}
        return pa.table(columns).replace_schema_metadata(metadata)


class SharedIndex:
    """The index that the settings name, opened at the first use. Thread-safe.

    A server's connection is kept until `close`; after a failure it is left alone for some seconds, so that not every call waits
    for it. A milvus-lite file is given back after each use, so that another process may open it in between.

    Args:
        settings: name the index.
        monotonic: seconds.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: VectorIndex | None = None
        self._rests_until = float("-inf")

    @property
    def embedded(self) -> bool:
        """Whether it is a milvus-lite file."""
        return "://" not in self._settings.milvus_uri

    @contextmanager
    def use(self) -> Iterator[VectorIndex]:
        """The index, open.

        Raises:
            Misconfigured: refused credentials, or a milvus-lite file that another process has open.
            Transient: no such file, or no answer now or some seconds ago.
        """
        if not self.embedded:
            with self._resting(self._server()) as server:
                yield server
            return
        if not Path(self._settings.milvus_uri).exists():
            # Opening it would make an empty one.
            raise Transient(f"index: expected one at {self._settings.milvus_uri}, got nothing; backfill it")
        opened = self._opened()
        try:
            yield opened
        finally:
            opened.close()

    def close(self) -> None:
        """Give up the connection, if there is one."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @contextmanager
    def _resting(self, server: VectorIndex) -> Iterator[VectorIndex]:
        try:
            yield server
        except Transient:
            with self._lock:
                self._rest()
            raise

    def _server(self) -> VectorIndex:
        # Checked under the lock: whoever waited there while opening failed is not to wait for a failure of its own.
        with self._lock:
            if self._monotonic() < self._rests_until:
                raise Transient(f"index: expected an answer, got none less than {_PAUSE_SECONDS:g} s ago; try again")
            if self._kept is None:
                try:
                    self._kept = self._opened()
                except Transient:
                    self._rest()
                    raise
            return self._kept

    def _rest(self) -> None:
        self._rests_until = self._monotonic() + _PAUSE_SECONDS

    def _opened(self) -> VectorIndex:
        from moontide.stores import vector_index

        return vector_index(self._settings, timeout=_INDEX_SECONDS)


class SimilarItems:
    """Nearest items of one site. Thread-safe where its parts are.

    Args:
        store: holds the vector of the item asked about, and all others where they are scanned.
        tables: vectors in this process, if there are any.
        index: the vector index, if there is one; closed by `close`.
        scan_rows: a space of more vectors is not scanned.
    """

    def __init__(
        self,
        store: OnlineStore,
        *,
        tables: BlockSource | None = None,
        index: SharedIndex | None = None,
        scan_rows: int = SCAN_ROWS,
    ) -> None:
        self._store = store
        self._tables = tables
        self._index = index
        self._scan_rows = scan_rows
        self._large: set[EmbeddingSpace] = set()

    def use_index(self, index: SharedIndex) -> None:
        """Ask `index` from now on; closed by `close`."""
        self._index = index

    def of(self, space: EmbeddingSpace, item_id: str, k: int) -> Similar:
        """The k nearest other items that have a vector, by cosine, equal ones by rising id; fewer where there are fewer.

        Raises:
            Poison: no id, or an item without a vector in this space.
            Misconfigured: `k` outside 1 to `MAX_NEIGHBOURS`.
            SpaceMismatch: table, store or index hold vectors of another encoder under this space's name.
            Transient: no table, too many vectors for a scan, and no index that answers.
        """
        names.require_ids([item_id])
        if not 1 <= k <= MAX_NEIGHBOURS:
            raise Misconfigured(f"k: expected 1 to {MAX_NEIGHBOURS:,}, got {k}")
        query = query_of(self._store, space, item_id)
        problems: list[str] = []
        for source, ask in self._sources():
            try:
                hits = ask(query, item_id, k)
            except SpaceMismatch:
                raise
            except (Transient, Misconfigured) as error:
                problems.append(str(error))
                continue
            if hits is not None:
                return Similar(space, hits, source)
        raise Transient(
            f"similar items in {space.id}: expected an in-process table, an index that answers or at most {self._scan_rows:,} "
            f"vectors, got none of them ({'; '.join(problems) or 'no index'}); set MOONTIDE_SERVING_TABLE=on, or start the index"
        )

    def index_rows(self, space: EmbeddingSpace) -> int:
        """Rows the index holds of a space; a milvus-lite file is not opened for it.

        Raises:
            Transient, Misconfigured: it cannot be asked.
        """
        if self._index is None:
            raise Transient("index: expected one, got none")
        if self._index.embedded:
            raise Transient("index: milvus-lite, which one process owns; `moontide doctor` counts its rows")
        with self._index.use() as index:
            return index.count(space)

    def close(self) -> None:
        """Give up the index; store and tables are their owner's to close."""
        if self._index is not None:
            self._index.close()

    def _sources(self) -> list[tuple[str, Callable[[Embeddings, str, int], Hits | None]]]:
        scan, index = ("scan", self._by_scan), ("index", self._by_index)
        last = [scan, index] if self._index is not None and self._index.embedded else [index, scan]
        return [("table", self._by_table), *last]

    def _by_table(self, query: Embeddings, item_id: str, k: int) -> Hits | None:
        blocks = self._tables.scan_blocks(query.space) if self._tables is not None else None
        return None if blocks is None else in_blocks(blocks, query, item_id, k)

    def _by_index(self, query: Embeddings, item_id: str, k: int) -> Hits | None:
        if self._index is None:
            return None
        with self._index.use() as index:
            return in_index(index, query, item_id, k)

    def _by_scan(self, query: Embeddings, item_id: str, k: int) -> Hits | None:
        if query.space in self._large or self._store.foreign_keys() > SCAN_FOREIGN:
            return None
        try:
            return in_blocks(store_blocks(self._store, query.space, most=self._scan_rows), query, item_id, k)
        except OverflowError:
            # Counting takes as long as a scan of the most rows: once is enough.
            self._large.add(query.space)
            return None
