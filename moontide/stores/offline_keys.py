"""Which rows of an offline table are the same, and which is the latest: pure functions over columns of keys."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names
from moontide.views import ViewSpec

KNOWN_AT: Final = "content_known_at"
#: Where a row of keys lies: number of its file in a listing, and row in that file.
FILE: Final = "__file"
ROW: Final = "__row"
_CONTENT: Final = ("content_hash", "sequence_version", "history_digest")


def order_columns(view: ViewSpec) -> list[str]:
    """Columns that order a view's rows of one entity, most significant first."""
    first = [names.SOURCE_VERSION] if view.fenced else []
    last = ["content_hash"] if "content_hash" in view.table.names else []
    return [*first, names.EVENT_TIMESTAMP, view.created, *last]


def identity_columns(view: ViewSpec) -> list[str]:
    """Columns that tell two rows of a view apart."""
    columns = [*view.entities, *order_columns(view)]
    return columns + [c for c in _CONTENT if c in view.table.names and c not in columns]


def key_columns(view: ViewSpec) -> list[str]:
    """`identity_columns`, then `deleted` and `content_known_at` where the view has them."""
    return identity_columns(view) + [c for c in (names.DELETED, KNOWN_AT) if c in view.table.names]


def distinct(keys: pa.Table, columns: list[str]) -> NDArray[np.bool_]:
    """(rows,) bool: the first of each group of rows that agree in `columns`."""
    numbered = keys.select(columns).append_column(ROW, pa.array(np.arange(keys.num_rows)))
    first = numbered.group_by(columns).aggregate([(ROW, "min")])
    keep = np.zeros(keys.num_rows, np.bool_)
    keep[first[f"{ROW}_min"].to_numpy()] = True
    return keep


def latest_rows(view: ViewSpec, keys: pa.Table) -> pa.Table:
    """The highest row of each entity by write order; among equal ones the first."""
    if not keys.num_rows:
        return keys
    entity = keys[view.entities[0]]
    if len(view.entities) > 1:
        entity = pc.binary_join_element_wise(*(keys[e] for e in view.entities), "/")
    codes = pc.dictionary_encode(entity).combine_chunks().indices
    columns = order_columns(view)
    sortable = keys.select(columns).append_column("__entity", codes)
    order = [("__entity", "ascending"), *((c, "descending") for c in columns)]
    ranked = pc.sort_indices(sortable, sort_keys=order).to_numpy()
    sorted_codes = codes.to_numpy()[ranked]
    first = np.concatenate(([True], sorted_codes[1:] != sorted_codes[:-1]))
    return keys.take(pa.array(np.sort(ranked[first])))


def known(view: ViewSpec, keys: pa.Table, as_of: datetime) -> NDArray[np.bool_]:
    """(rows,) bool: what had happened and reached us by `as_of` (without a zone: UTC); when it was encoded does not count."""
    limit = pa.scalar(as_of, pa.timestamp("us", tz="UTC"))
    mask = pc.less_equal(keys[names.EVENT_TIMESTAMP], limit)
    if KNOWN_AT in view.table.names:
        mask = pc.and_(mask, pc.less_equal(keys[KNOWN_AT], limit))
    flags: NDArray[np.bool_] = mask.to_numpy()
    return flags
