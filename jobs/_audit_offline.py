"""What an audit compares with: rows of the offline tables by their exact version, or by what was known at a time (V rows)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names, schemas
from moontide.embeddings import Embeddings
from moontide.errors import SpaceMismatch
from moontide.order import KEY_BYTES
from moontide.pit.arrays import ArrayFile
from moontide.pit.ids import Ids
from moontide.pit.steps import Steps
from moontide.records import embeddings_of
from moontide.spaces import EmbeddingSpace
from moontide.stores.record_views import orders
from moontide.views import ViewSpec, embedding_view, item_features

Ints = NDArray[np.int64]
VECTOR_COLUMNS = ("item_id", "source_version", "event_timestamp", "encoded_at", "content_hash", "deleted", "codes", "scale")
#: No record was read, so there is none to be found.
NOT_READ = -2


class Exact:
    """Rows by (item, write order), found by bisection over their packed keys."""

    def __init__(self, items: Ids, parts: list[NDArray[Any]]) -> None:
        keys = np.concatenate([np.zeros(0, f"S{8 + KEY_BYTES}"), *parts])
        self._items = items
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def rows(self, view: ViewSpec, item_ids: pa.Array, versions: pa.StructArray) -> Ints:
        """(B,) row of each item's version; -1: not there, `NOT_READ`: the version is null."""
        read = versions.is_valid().to_numpy(zero_copy_only=False)
        found = np.full(len(versions), NOT_READ, np.int64)
        if not read.any():
            return found
        chosen = pa.array(read)
        table = pa.Table.from_arrays([f.filter(chosen) for f in versions.flatten()], names=[f.name for f in versions.type])
        item = self._items.rows(item_ids.filter(chosen))
        wanted = packed_keys(view, item, table)
        at = np.minimum(np.searchsorted(self._keys, wanted), max(len(self._keys) - 1, 0))
        same = self._keys[at] == wanted if len(self._keys) else np.zeros(len(wanted), bool)
        found[read] = np.where(same, self._order[at] if len(self._keys) else -1, -1)
        return found


def packed_keys(view: ViewSpec, item: Ints, rows: pa.Table) -> NDArray[Any]:
    """(B,) bytes of row of the item and write order, equal where both are."""
    both = np.empty((len(item), 8 + KEY_BYTES), np.uint8)
    both[:, :8] = item.astype(">i8").view(np.uint8).reshape(-1, 8)
    both[:, 8:] = orders(view, rows)[0].view(np.uint8).reshape(-1, KEY_BYTES)
    # Trailing zero bytes are not compared, which changes nothing between keys of one width.
    found: NDArray[Any] = both.reshape(-1).view(f"S{8 + KEY_BYTES}")
    return found


class OfflineVectors:
    """The vectors of one space, of wanted items, by version.

    Attributes:
        vectors: (V, D), without ids; a tombstone is not present.
    """

    def __init__(self, vectors: Embeddings, exact: Exact) -> None:
        self.vectors, self._exact = vectors, exact

    @classmethod
    def build(cls, rows: Iterable[pa.Table], space: EmbeddingSpace, items: Ids) -> OfflineVectors:
        """Read tables with `VECTOR_COLUMNS`; memory grows with the rows of wanted items.

        Raises:
            SpaceMismatch: codes of another width.
        """
        view = embedding_view(space)
        whole = view.space or space
        codes, scales, keys = ArrayFile(None, space.dim), [np.zeros(0, np.float32)], list[NDArray[Any]]()
        for table in rows:
            item = items.rows(table["item_id"])
            wanted, item = table.filter(pa.array(item >= 0)), item[item >= 0]
            if not len(item):
                continue
            widths = pc.unique(pc.binary_length(wanted["codes"])).to_pylist()
            if widths != [whole.dim]:
                raise SpaceMismatch(
                    f"embedding log of {whole.id}: expected {whole.dim} codes a row, got {widths}; "
                    "give the other encoder a space version of its own"
                )
            read = embeddings_of(whole, wanted)
            read = read.prefix(space.dim) if space.prefix_of else read
            codes.append(read.codes)
            scales.append(read.scale)
            keys.append(packed_keys(view, item, wanted))
        return cls(Embeddings.from_codes(space, codes.close(), np.concatenate(scales)), Exact(items, keys))

    def rows(self, item_ids: pa.Array, versions: pa.StructArray) -> Ints:
        """As `Exact.rows`."""
        return self._exact.rows(embedding_view(self.vectors.space), item_ids, versions)


class OfflineItems:
    """The catalog's scalars of wanted items, by version or as of a time.

    Attributes:
        table: V rows of `schemas.ITEM_FEATURES`.
    """

    def __init__(self, table: pa.Table, items: Ids) -> None:
        self.table, self._items = table, items
        self._view = item_features()
        item = items.rows(table["item_id"])
        self._exact = Exact(items, [packed_keys(self._view, item, table)] if len(item) else [])
        order = [table[name].cast(pa.int64()).to_numpy() for name in ("source_version", "event_timestamp", "created")]
        self._steps = Steps.of(item, len(items), order[1], order, np.ones(len(item), bool))

    @classmethod
    def build(cls, rows: Iterable[pa.Table], items: Ids) -> OfflineItems:
        """Read tables of `schemas.ITEM_FEATURES`."""
        parts = [table.filter(pa.array(items.rows(table[names.ITEM_ID]) >= 0)) for table in rows]
        return cls(pa.concat_tables([schemas.ITEM_FEATURES.empty_table(), *parts]).combine_chunks(), items)

    def rows(self, item_ids: pa.Array, versions: pa.StructArray) -> Ints:
        """As `Exact.rows`."""
        return self._exact.rows(self._view, item_ids, versions)

    def at(self, item_ids: pa.Array, times: Ints) -> Ints:
        """(B,) row that was valid at each time, a tombstone too; -1: none."""
        return self._steps.at(self._items.rows(item_ids), times)

    def values(self, name: str, rows: Ints) -> pa.Array:
        """(B,) values of a field; null for a tombstone and a row below 0."""
        if not self.table.num_rows:
            return pa.nulls(len(rows), self.table.schema.field(name).type)
        known = np.maximum(rows, 0)
        live = (rows >= 0) & ~self.table["deleted"].to_numpy().astype(bool)[known]
        found: pa.Array = self.table[name].combine_chunks().take(pa.array(known, mask=~live))
        return found
