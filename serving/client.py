"""`RankingClient`: user and candidates in, one Arrow table of features out, in process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa

from moontide import names
from moontide.errors import Misconfigured
from moontide.live import LiveSpaces, Service
from moontide.stores.base import OnlineStore
from moontide.views import item_features
from serving.features import Features, metadata_of, sequence_table
from serving.prefetch import Prefetch, PrefetchCache
from serving.prefetch_key import PrefetchKey
from serving.reading import Request, StoreVectors, Vectors, listed, read_ahead, read_candidates, read_request
from serving.request_log import RequestLog, Served, read_served
from serving.similar import BlockSource, SharedIndex, SimilarItems

_WARM_ID: Final = "moontide-warm-up"


class RankingClient:
    """Reads the features a ranking model was trained on. Thread-safe where its store is; one per process is enough.

    Args:
        store: the online store; closed by `close`.
        live: the site's spaces and services.
        log: takes a sample of the requests; the caller closes it. None: nothing is logged.
        vectors: where vectors are read, as `serving.table.VectorTables`; None: from the store. The caller closes it.
        prefetched: keeps user sides that are read ahead; None: `prefetch` does nothing.
    """

    def __init__(
        self,
        store: OnlineStore,
        live: LiveSpaces,
        *,
        log: RequestLog | None = None,
        vectors: Vectors | None = None,
        prefetched: PrefetchCache | None = None,
    ) -> None:
        self._store = store
        self._live = live
        self._log = log
        self._vectors = StoreVectors(store) if vectors is None else vectors
        self._prefetched = prefetched
        self._similar = SimilarItems(store, tables=vectors if isinstance(vectors, BlockSource) else None)

    @classmethod
    def from_repo(cls, repo: str | Path, *, log: RequestLog | None = None) -> RankingClient:
        """Open the online store and services of a Feast feature repository.

        Raises:
            Misconfigured: no such repository, an online store that is not moontide's, or no live spaces.
        """
        from serving.repository import open_repo, repo_settings

        client = cls(*open_repo(Path(repo)), log=log)
        client.use_index(SharedIndex(repo_settings(Path(repo))))
        return client

    def use_index(self, index: SharedIndex) -> None:
        """Let `similar` ask `index`, which is opened when it is first asked and closed by `close`."""
        self._similar.use_index(index)

    @property
    def online(self) -> OnlineStore:
        """What is read; this client closes it."""
        return self._store

    @property
    def vectors(self) -> Vectors:
        """Where vectors are read; its owner closes it."""
        return self._vectors

    def index_rows(self, space_id: str) -> int:
        """Rows the vector index holds of a live space, as `SimilarItems.index_rows`."""
        return self._similar.index_rows(self._live.space(space_id))

    def unlogged(self) -> RankingClient:
        """The same reads of which none is logged or read ahead, for people who look on. Only this client is to be closed."""
        twin = RankingClient(self._store, self._live, vectors=self._vectors)
        twin._similar = self._similar
        return twin

    def features(
        self,
        user_id: str,
        item_ids: Iterable[str] | pa.Array | pa.ChunkedArray,
        *,
        service: str = "ctr_v1",
        request_id: str | None = None,
    ) -> pa.Table:
        """Features of C candidates for one user, as one Arrow table.

        Args:
            user_id, item_ids, service, request_id: as `read`.

        Returns:
            C rows in the order of `item_ids`: ``item_id``; ``embedding`` fixed_size_list<float32>[D] (codes * scale);
            ``embedding_present`` bool; ``counts`` fixed_size_list<int32>[N]; ``missing`` int32; the service's item fields.
            Schema metadata: ``service``, ``space``, ``encoder_digest``, ``simtier``, ``sequence_version``, ``prefetch``.

        Raises:
            Misconfigured, Poison, SpaceMismatch, TypeError: as `read`.
        """
        return self.read(user_id, item_ids, service=service, request_id=request_id).to_arrow()

    def read(
        self,
        user_id: str,
        item_ids: Iterable[str] | pa.Array | pa.ChunkedArray,
        *,
        service: str = "ctr_v1",
        request_id: str | None = None,
        waited_for: Callable[[], bool] = lambda: True,
    ) -> Features:
        """Features of C candidates for one user, as arrays.

        Args:
            user_id: an unknown user has no history: counts 0, missing 0.
            item_ids: C candidates (a list, an Arrow or NumPy array, any iterable of str), repeats allowed, 0 is fine. Vector
                and fields stand for themselves: an item without a vector (unknown, not encoded yet, or its vector deleted) has
                ``present`` false, a zero embedding (null in Arrow) and the whole history in ``missing``; one whose
                ``item_features`` record is absent or deleted has null fields.
            service: what to read.
            request_id: under which the user side was read ahead by `prefetch`, and the request is logged, where it is; None:
                nothing was read ahead, and one is drawn for the log. A logged request reads everything anew, from the store.
            waited_for: asked when everything is read; False: nobody takes the answer any more, so it is not logged.

        Raises:
            Misconfigured: no such service.
            Poison: a user or item id that cannot be one.
            SpaceMismatch: the store holds vectors of another encoder under this space's name.
            TypeError: `item_ids` is one string, or nothing that can be iterated.
        """
        chosen = self._live.service(service)
        names.require_ids([user_id], what=names.USER_ID)
        ids = names.require_ids(listed(item_ids))
        if self._log is not None and self._log.sampled():
            features, served, at = self._logged(self._log, chosen, user_id, ids)
            if waited_for():
                self._log.add(chosen, served, at, request_id)
            return features
        request, came = self._request(chosen, user_id, ids, request_id)
        tiers, fields = request.tiers(chosen), self._fields(chosen, ids)
        metadata = metadata_of(chosen, request.side.sequence_version, came)
        return Features(tuple(ids), request.candidates, tiers, fields, metadata)

    def prefetch(self, user_id: str, *, request_id: str, service: str = "ctr_v1") -> None:
        """Read the user side of a request that is to come: the sequence and its vectors. Returns when it is there.

        Args:
            user_id: whose.
            request_id: what `read` will be called with; an id that can be one.
            service: what `read` will be asked for.

        Raises:
            Misconfigured: no such service.
            Poison: a user or request id that cannot be one.
            SpaceMismatch: as `read`.
            Transient: the store did not answer; `read` will try again.
        """
        chosen = self._live.service(service)
        names.require_ids([user_id], what=names.USER_ID)
        names.require_ids([request_id], what="request_id")
        if self._prefetched is not None:
            key = PrefetchKey(request_id, user_id, chosen)
            self._prefetched.fill(key, lambda: read_ahead(self._store, self._vectors, chosen, user_id))

    def warm_up(self) -> None:
        """Read every service once, then set what is alive apart from garbage collection, whose pauses are the slowest requests.

        Call it once, when everything is open and before the first request. Nothing of it is logged.

        Raises:
            SpaceMismatch, Transient: as `read`.
        """
        reads = self.unlogged()
        for service in self._live.services:
            reads.read(_WARM_ID, [_WARM_ID], service=service.name).to_arrow()
        gc.collect()
        gc.freeze()

    def _request(self, chosen: Service, user_id: str, ids: list[str], request_id: str | None) -> tuple[Request, Prefetch]:
        ahead, came = None, Prefetch.OFF
        if self._prefetched is not None and request_id is not None:
            ahead, came = self._prefetched.take(PrefetchKey(request_id, user_id, chosen))
        if ahead is None:
            return read_request(self._store, self._vectors, chosen, user_id, ids), came
        return read_candidates(ahead, self._vectors, chosen, ids), came

    def _fields(self, chosen: Service, ids: list[str]) -> Mapping[str, pa.Array | pa.ChunkedArray]:
        if not chosen.item_fields:
            return {}
        table = self._store.read_columns(item_features(), ids, list(chosen.item_fields))
        return {name: table.column(name) for name in chosen.item_fields}

    def _logged(self, log: RequestLog, chosen: Service, user_id: str, ids: list[str]) -> tuple[Features, Served, int]:
        """The same values, read with their versions, and when that began."""
        now = log.now()
        served = read_served(self._store, chosen, user_id, ids)
        fields = {name: served.fields[name] for name in chosen.item_fields}
        metadata = metadata_of(chosen, served.sequence.version, Prefetch.OFF)
        return Features(tuple(ids), served.candidates, served.tiers, fields, metadata), served, now

    def sequence(self, user_id: str, *, service: str = "ctr_v1", length: int | None = None) -> pa.Table:
        """The behaviours that `features` compares candidates with, for models that attend over them.

        Args:
            user_id: an unknown user has none.
            service: names the sequence and the space.
            length: newest behaviours wanted; None: all that are kept.

        Returns:
            One row a behaviour, newest last, ordered by (time, item, action): ``item_id``, ``action``, ``event_timestamp`` (UTC),
            ``embedding`` fixed_size_list<float32>[D] (null where the item has none) and ``embedding_present``. Schema metadata as
            `features`; an equal ``sequence_version`` says that both read one sequence.

        Raises:
            Misconfigured: no such service, or a length below 1.
            Poison: a user id that cannot be one.
            SpaceMismatch: the store holds vectors of another encoder under this space's name.
        """
        chosen = self._live.service(service)
        names.require_ids([user_id], what=names.USER_ID)
        if length is not None and length < 1:
            raise Misconfigured(f"length: expected 1 or more, got {length}")
        return sequence_table(self._store, chosen, user_id, length)

    def similar(self, item_id: str, *, k: int = 10, service: str = "ctr_v1", space_id: str | None = None) -> pa.Table:
        """The k nearest other items of an item, by the cosine of their current vectors.

        Args:
            item_id: an item that has a vector.
            k: 1 to 10,000.
            service: whose space; not looked at where `space_id` is given.
            space_id: another live space.

        Returns:
            At most k rows in falling order of cosine, equal ones by rising id: ``item_id`` string, ``cosine`` float32. Schema
            metadata: ``space``, ``encoder_digest``, ``source`` (``table``, ``index`` or ``scan``: all give the same cosines; an
            index on a server may miss one of the nearest).

        Raises:
            Misconfigured: no such service or space, or `k` out of range.
            Poison: no id, or an item without a vector in this space.
            SpaceMismatch: vectors of another encoder under this space's name.
            Transient: neither table nor index answers, and there are too many vectors to scan.
        """
        space = self._live.service(service).space if space_id is None else self._live.space(space_id)
        return self._similar.of(space, item_id, k).to_arrow()

    def close(self) -> None:
        """Release the store and the index."""
        self._similar.close()
        self._store.close()

    def __enter__(self) -> RankingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
