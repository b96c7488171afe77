"""The vector index on Milvus: a server, or milvus-lite on a file. One collection per space.

Rows hold the codes as float32 (cosine does not see the scale, and integers survive every float format exactly), and the order
key each row was made from. Scores are computed again from the codes of the hits, so they are the cosines of `tier_counts`,
whatever the index approximates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pymilvus import CollectionSchema, DataType, MilvusClient

from moontide import names
from moontide.embeddings import Embeddings, inverse_norms
from moontide.errors import Misconfigured, MoontideError, SpaceMismatch
from moontide.order import KEY_BYTES
from moontide.spaces import EmbeddingSpace
from moontide.stores import index_rules as rules
from moontide.stores.base import Matches
from moontide.stores.index_connection import MilvusConnection
from moontide.stores.index_lite import clear_unfinished

_SPACE_PROPERTY: Final = "moontide.space"
_BATCH_ROWS: Final = 1_000
_BATCH_BYTES: Final = 16 << 20
_STRONG: Final = "Strong"
#: milvus-lite: exact and as fast as its HNSW, whose recall@10 was 0.996 at 10,000 random rows. Server: HNSW, wide search.
_LITE_INDEX: Final[dict[str, Any]] = {"index_type": "FLAT", "params": {}}
_LITE_VERSION: Final = "milvus_lite"
_SERVER_INDEX: Final[dict[str, Any]] = {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}
_MIN_EF: Final = 128


class MilvusIndex:
    """Implements `VectorIndex` through pymilvus. Thread-safe; all indexes of a process at one address share a connection.

    Prefix spaces are refused (`Misconfigured`): rank in the parent.

    Args:
        uri: ``http(s)://host:port``, or the path of a milvus-lite file (``*.db``), whose folder only this process may open.
        token: ``user:password`` or API key; empty for none.
        timeout: seconds one call may take.

    Raises:
        Misconfigured: no such kind of address, refused credentials, or a file another process has open or that was cut short.
        Transient: the server does not answer.
    """

    def __init__(self, uri: str, *, token: str = "", timeout: float = 30.0) -> None:
        self._connection = MilvusConnection.acquire(uri, token, timeout)
        self._timeout = timeout
        self._known: dict[EmbeddingSpace, int] = {}

    def ensure(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.ensure`; another process may do the same at the same time."""
        rules.require_own_collection(space)
        if not self._has(space.collection):
            create = partial(self._connection.write, f"create {space.collection}", lambda c: self._create(c, space))
            try:
                create()
            except MoontideError:
                if clear_unfinished(self._connection.path, space.collection):
                    create()
                elif not self._has(space.collection):
                    raise
        self._collection(space)

    def upsert(self, space: EmbeddingSpace, embeddings: Embeddings, tokens: Sequence[bytes]) -> None:
        """As `VectorIndex.upsert`; of two rows with one id the last wins."""
        ids = rules.require_rows(space, embeddings, tokens)
        collection = self._collection(space, fresh=True)
        last = sorted({item: row for row, item in enumerate(ids)}.values())
        vectors = embeddings.codes.astype(np.float32)
        for rows in _batches(last, space.dim):
            batch = [{"item_id": ids[r], "token": tokens[r].hex(), "vector": vectors[r]} for r in rows]
            self._connection.write(
                f"write {collection}", partial(MilvusClient.upsert, collection_name=collection, data=batch, timeout=self._timeout)
            )

    def delete(self, space: EmbeddingSpace, ids: Sequence[str]) -> None:
        """As `VectorIndex.delete`."""
        collection = self._collection(space, fresh=True)
        for batch in _batches(names.require_ids(ids), 1):
            self._connection.write(
                f"write {collection}", partial(MilvusClient.delete, collection_name=collection, ids=batch, timeout=self._timeout)
            )

    def tokens(self, space: EmbeddingSpace, ids: Sequence[str]) -> list[bytes | None]:
        """As `VectorIndex.tokens`; sees every write acknowledged before."""
        collection = self._collection(space)
        found: dict[str, bytes] = {}
        for batch in _batches(list(dict.fromkeys(names.require_ids(ids))), 1):
            rows = self._connection.read(f"read {collection}", partial(self._get, collection=collection, ids=batch))
            found.update((r["item_id"], bytes.fromhex(r["token"])) for r in rows)
        return [found.get(item) for item in ids]

    def scan(self, space: EmbeddingSpace) -> Iterator[list[tuple[str, bytes]]]:
        """As `VectorIndex.scan`."""
        collection = self._collection(space)
        pages = self._connection.read(f"scan {collection}", lambda c: self._iterate(c, collection))
        try:
            while page := self._connection.read(f"scan {collection}", lambda _: pages.next()):
                yield [(r["item_id"], bytes.fromhex(r["token"])) for r in page]
        finally:
            pages.close()

    def search(self, space: EmbeddingSpace, queries: Embeddings, k: int) -> Matches:
        """As `VectorIndex.search`; of hits with equal scores the lower id comes first."""
        rules.require_query(space, queries, k)
        collection = self._collection(space)
        hits: list[tuple[list[str], NDArray[np.float32]]] = [([], np.empty(0, np.float32)) for _ in range(len(queries))]
        for rows in _batches(np.flatnonzero(queries.present).tolist(), space.dim * k):
            block = queries.take(np.array(rows))
            search = partial(self._search, collection=collection, queries=block, k=k)
            found = self._connection.read(f"search {collection}", search)
            for row, query, candidates in zip(rows, range(len(block)), found, strict=True):
                hits[row] = _rescored(block.take(slice(query, query + 1)), candidates, k)
        return rules.matches(hits, k)

    def count(self, space: EmbeddingSpace) -> int:
        """As `VectorIndex.count`."""
        collection = self._collection(space)
        rows = self._connection.read(f"count {collection}", partial(self._count, collection=collection))
        return int(rows[0]["count(*)"])

    def flush(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.flush`."""
        collection = self._collection(space)
        self._connection.write(f"flush {collection}", lambda c: c.flush(collection, timeout=self._timeout))
        self._connection.make_durable(collection)

    def point_alias(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.point_alias`."""
        collection = self._collection(space, fresh=True)
        change = "alter_alias" if self._has(space.alias) else "create_alias"
        self._connection.write(
            f"point {space.alias} at {collection}", lambda c: getattr(c, change)(collection, space.alias, timeout=self._timeout)
        )
        self._connection.make_aliases_durable()

    def resolve_alias(self, name: str) -> str | None:
        """As `VectorIndex.resolve_alias`."""
        alias = names.collection_alias(name)
        if not self._has(alias):
            return None
        found = self._connection.read(f"resolve {alias}", lambda c: c.describe_alias(alias, timeout=self._timeout))
        return str(found["collection_name"]).removeprefix(names.COLLECTION_PREFIX)

    def drop(self, space: EmbeddingSpace) -> None:
        """As `VectorIndex.drop`; a collection that is not there is fine."""
        rules.require_own_collection(space)
        if not self._has(space.collection):
            return
        collection = self._collection(space, fresh=True)
        if self.resolve_alias(space.name) == space.stored_id:
            raise Misconfigured(rules.aliased(space))
        self._connection.write(f"drop {collection}", lambda c: c.drop_collection(collection, timeout=self._timeout))
        self._connection.expire()

    def close(self) -> None:
        """As `VectorIndex.close`."""
        self._connection.close()

    def _has(self, collection: str) -> bool:
        return bool(self._connection.read("list", lambda c: c.has_collection(collection, timeout=self._timeout)))

    def _collection(self, space: EmbeddingSpace, *, fresh: bool = False) -> str:
        """The name of a collection that is there, is this space's and is loaded.

        Checked once per connection, and now if `fresh`, as before writes: another process may have made it anew since.
        """
        generation = self._connection.generation
        if not fresh and self._known.get(space) == generation:
            return space.collection
        rules.require_own_collection(space)
        if not self._has(space.collection):
            raise Misconfigured(rules.missing(space))
        found = self._connection.read("describe", lambda c: c.describe_collection(space.collection, timeout=self._timeout))
        got = (found.get("properties") or {}).get(_SPACE_PROPERTY) or found.get("description")
        if got != _identity(space):
            raise SpaceMismatch(rules.mismatch(space, str(got)))
        self._connection.read("load", lambda c: c.load_collection(space.collection, timeout=self._timeout))
        self._known[space] = generation
        return space.collection

    def _create(self, client: MilvusClient, space: EmbeddingSpace) -> None:
        schema: CollectionSchema = client.create_schema(description=_identity(space), auto_id=False, enable_dynamic_field=False)
        schema.add_field("item_id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("token", DataType.VARCHAR, max_length=2 * KEY_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=space.dim)
        index = client.prepare_index_params()
        # As a server it has a URI like Milvus', and is milvus-lite all the same.
        lite = self._connection.path is not None or client.get_server_version(timeout=self._timeout).startswith(_LITE_VERSION)
        index.add_index("vector", metric_type="COSINE", **(_LITE_INDEX if lite else _SERVER_INDEX))
        client.create_collection(
            space.collection,
            schema=schema,
            index_params=index,
            consistency_level=_STRONG,
            properties={_SPACE_PROPERTY: _identity(space)},
            timeout=self._timeout,
        )

    def _get(self, client: MilvusClient, collection: str, ids: list[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get(
            collection, ids=ids, output_fields=["token"], consistency_level=_STRONG, timeout=self._timeout
        )
        return found

    def _count(self, client: MilvusClient, collection: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.query(
            collection, filter="", output_fields=["count(*)"], consistency_level=_STRONG, timeout=self._timeout
        )
        return found

    def _iterate(self, client: MilvusClient, collection: str) -> Any:
        return client.query_iterator(
            collection, batch_size=_BATCH_ROWS, output_fields=["token"], consistency_level=_STRONG, timeout=self._timeout
        )

    def _search(self, client: MilvusClient, collection: str, queries: Embeddings, k: int) -> Any:
        return client.search(
            collection,
            list(queries.codes.astype(np.float32)),
            limit=k,
            anns_field="vector",
            output_fields=["vector"],
            search_params={"metric_type": "COSINE", "params": {"ef": max(_MIN_EF, 2 * k)}},
            consistency_level=_STRONG,
            timeout=self._timeout,
        )


def _identity(space: EmbeddingSpace) -> str:
    fields = {"id": space.id, "dim": space.dim, "codec": space.codec, "metric": space.metric, "encoder": space.encoder_digest}
    return json.dumps(fields, sort_keys=True)


def _batches(values: list[Any], floats: int) -> Iterator[list[Any]]:
    """`values` in batches of at most 1,000, and of at most 16 MB where each stands for `floats` float32."""
    step = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (4 * floats)))
    for start in range(0, len(values), step):
        yield values[start : start + step]


def _rescored(query: Embeddings, candidates: Any, k: int) -> tuple[list[str], NDArray[np.float32]]:
    if not candidates:
        return [], np.empty(0, np.float32)
    ids = [hit["item_id"] for hit in candidates]
    codes = np.array([hit["entity"]["vector"] for hit in candidates], np.float32).astype(np.int8)
    scores = rules.cosines(query.codes, query.inv_norm, codes, inverse_norms(codes))[0]
    return rules.ranked(ids, scores, k)
