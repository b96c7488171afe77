"""Training pairs from Parquet into arrays: what `jobs/training_pairs.py` wrote, or anything in its schema.

`docs/reference/training-pairs.md` describes the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moontide import schemas
from moontide.errors import Misconfigured

#: Data card beside the Parquet files.
CARD: Final = "pairs.json"
#: Values of `Pairs.query_kind`.
QUERY_ITEM, QUERY_TEXT, QUERY_IMAGE = 0, 1, 2
#: `Pairs.time_us` of a pair that has no time.
NO_TIME: Final = np.iinfo(np.int64).min
_NEEDED: Final = ("item_id", "kind", "purchased", "weight", "log_q")
_QUERIES: Final = ("query_item_id", "query_text", "query_image")


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of a query and an item, in the order of the files. Item indices are rows of the `item_ids` they were read with.

    Attributes:
        query_kind: (P,) int8, `QUERY_ITEM`, `QUERY_TEXT` or `QUERY_IMAGE`.
        query_item, query_text, query_image: (P,) int32: the item, a row of `texts`, a row of `images`; -1 for the two
            that the query is not.
        item: (P,) int32.
        negative: (P,) int32; -1 without a hard negative.
        kind: (P,) int8, a place in `moontide.schemas.PAIR_KINDS`.
        purchased: (P,) bool.
        weight, log_q: (P,) float32; `log_q` is the log probability with which the positive was drawn.
        time_us: (P,) int64 microseconds; `NO_TIME` for content.
        texts, images: distinct query texts and image paths, Arrow string arrays.
        dropped: pairs left out, by reason.
    """

    query_kind: NDArray[np.int8]
    query_item: NDArray[np.int32]
    query_text: NDArray[np.int32]
    query_image: NDArray[np.int32]
    item: NDArray[np.int32]
    negative: NDArray[np.int32]
    kind: NDArray[np.int8]
    purchased: NDArray[np.bool_]
    weight: NDArray[np.float32]
    log_q: NDArray[np.float32]
    time_us: NDArray[np.int64]
    texts: pa.StringArray
    images: pa.StringArray
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.item)

    def of_kind(self, kind: str) -> NDArray[np.int64]:
        """Places of the pairs of a kind of `moontide.schemas.PAIR_KINDS`."""
        return np.flatnonzero(self.kind == schemas.PAIR_KINDS.index(kind))

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Pairs:
        """The pairs at `places`, in that order; texts, images and `dropped` stay."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {name: a[places] for name, a in held.items() if isinstance(a, np.ndarray)}
        return replace(self, **taken)


def read_pairs(folder: Path, item_ids: Sequence[str]) -> Pairs:
    """Every pair of the folder's ``*.parquet`` whose items are known.

    Dropped and counted: ``unknown_item``, ``unknown_query_item``, ``no_query`` or ``two_queries`` (a pair has exactly one),
    ``unknown_kind``, ``self_pair``, ``bad_number`` (a weight that is not above 0, a `log_q` above 0, or one that is no
    number). A negative that is unknown, or the pair's own item or query, is taken off its pair and counted as
    ``unknown_negative`` or ``own_negative``; the pair stays.

    Args:
        folder: what the job wrote, or one file.
        item_ids: the corpus; different ids.

    Raises:
        Misconfigured: no Parquet there, a column missing or of another kind, or no pair is left.
    """
    table = _read(folder)
    codes = {name: _index(table[name], item_ids) for name in ("query_item_id", "item_id", "negative_item_id")}
    texts, query_text = _distinct(table["query_text"])
    images, query_image = _distinct(table["query_image"])
    has_item = _flags(pc.is_valid(table["query_item_id"]))
    queries = has_item.astype(np.int8) + (query_text >= 0) + (query_image >= 0)
    found: dict[str, Any] = {
        "query_kind": np.where(has_item, QUERY_ITEM, np.where(query_text >= 0, QUERY_TEXT, QUERY_IMAGE)).astype(np.int8),
        "query_item": codes["query_item_id"],
        "query_text": query_text,
        "query_image": query_image,
        "item": codes["item_id"],
        "kind": _index(table["kind"], schemas.PAIR_KINDS).astype(np.int8),
        "purchased": _flags(table["purchased"]),
        "weight": _numbers(table["weight"]),
        "log_q": _numbers(table["log_q"]),
        "time_us": _times(table["event_timestamp"]),
    }
    negative, dropped = _negatives(table["negative_item_id"], codes)
    kept, reasons = _sound(found, queries, has_item)
    if not kept.any():
        raise Misconfigured(
            f"{folder}: expected pairs of the {len(item_ids):,} items of the corpus, got {table.num_rows:,} rows of which none "
            f"can be used ({reasons}); make the pairs from the same data as the corpus"
        )
    pairs = Pairs(**found, negative=negative, texts=texts, images=images, dropped=reasons | dropped)
    return pairs if kept.all() else pairs.take(kept)


def purchases(pairs: Pairs) -> Pairs:
    """Pairs for post-training: only purchases, and of equal (query, item) pairs the latest, then the first in the files.

    Two pairs are equal where query and item are; the kind and the negative do not count. `dropped` gains ``not_purchased`` and
    ``duplicate``. The order of the rest stays.
    """
    bought = pairs.take(np.flatnonzero(pairs.purchased))
    order = np.lexsort(
        (-bought.time_us.astype(np.float64), bought.item, bought.query_image, bought.query_text, bought.query_item)
    )
    keys = np.stack([bought.query_item, bought.query_text, bought.query_image, bought.item])[:, order]
    first = np.ones(len(bought), np.bool_)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    kept = np.sort(order[first])
    dropped = {"not_purchased": len(pairs) - len(bought), "duplicate": len(bought) - len(kept)}
    return replace(bought.take(kept), dropped=pairs.dropped | {reason: n for reason, n in dropped.items() if n})


def _read(folder: Path) -> pa.Table:
    files = [folder] if folder.is_file() else sorted(p for p in folder.glob("*.parquet") if not p.name.startswith((".", "_")))
    if not files:
        raise Misconfigured(f"{folder}: expected Parquet files of training pairs, got none; run jobs/training_pairs.py")
    return pa.concat_tables([_file(path) for path in files])


def _file(path: Path) -> pa.Table:
    try:
        schema = pq.read_schema(path)
        schemas.require_columns(schema, schemas.TRAINING_PAIRS, _NEEDED, where=str(path))
        known = [f.name for f in schemas.TRAINING_PAIRS if f.name in schema.names and f.name != "category"]
        if not set(known) & set(_QUERIES):
            raise Misconfigured(f"{path}: expected one of the columns {list(_QUERIES)}, got {schema.names}; add one")
        table = pq.read_table(path, columns=known, read_dictionary=["kind"])
    except (pa.ArrowInvalid, OSError) as error:
        raise Misconfigured(f"{path}: expected a Parquet file, got something else ({str(error)[:99]}); make it anew") from error
    columns = {}
    for field in schemas.TRAINING_PAIRS:
        if field.name != "category":
            columns[field.name] = table[field.name].cast(field.type) if field.name in known else pa.nulls(len(table), field.type)
    return pa.table(columns)


def _index(values: pa.ChunkedArray, known: Sequence[str]) -> NDArray[np.int32]:
    """(P,) int32 places in `known`; -1 for null and for a value that is not there."""
    places = pc.fill_null(pc.index_in(values, value_set=pa.array(known, pa.string())), -1)
    # A null value meets a null of the value set only, and there is none.
    out: NDArray[np.int32] = np.asarray(places.to_numpy()).astype(np.int32, copy=False)
    return out


def _distinct(values: pa.ChunkedArray) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """Different non-empty values in order of first appearance, and (P,) int32 places among them, -1 for null and empty."""
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    coded = values.dictionary_encode().unify_dictionaries().combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) and coded.num_chunks else coded
    if isinstance(coded, pa.ChunkedArray):
        return pa.array([], pa.string()), np.zeros(0, np.int32)
    return coded.dictionary, np.asarray(pc.fill_null(coded.indices, -1)).astype(np.int32, copy=False)


def _negatives(values: pa.ChunkedArray, codes: dict[str, NDArray[np.int32]]) -> tuple[NDArray[np.int32], dict[str, int]]:
    negative = codes["negative_item_id"].copy()
    unknown = _flags(pc.is_valid(values)) & (negative < 0)
    own = (negative >= 0) & ((negative == codes["item_id"]) | (negative == codes["query_item_id"]))
    negative[own] = -1
    counts = {"unknown_negative": int(unknown.sum()), "own_negative": int(own.sum())}
    return negative, {reason: n for reason, n in counts.items() if n}


def _sound(
    found: dict[str, Any], queries: NDArray[np.int8], has_item: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """(P,) bool: which pairs can be used, and how many cannot, each counted under the first reason that holds."""
    weight, log_q = found["weight"], found["log_q"]
    checks = {
        "no_query": queries == 0,
        "two_queries": queries > 1,
        "unknown_kind": found["kind"] < 0,
        "unknown_item": found["item"] < 0,
        "unknown_query_item": has_item & (found["query_item"] < 0),
        "self_pair": has_item & (found["query_item"] == found["item"]),
        "bad_number": ~(np.isfinite(weight) & (weight > 0) & np.isfinite(log_q) & (log_q <= 0)),
    }
    kept = np.ones(len(queries), np.bool_)
    reasons = {}
    for reason, failed in checks.items():
        count = int((failed & kept).sum())
        if count:
            reasons[reason] = count
        kept &= ~failed
    return kept, reasons


def _flags(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = np.array(pc.fill_null(values, False).to_numpy(), np.bool_)
    return out


def _numbers(values: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.array(pc.fill_null(values, float("nan")).to_numpy(), np.float32)


def _times(values: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.array(pc.fill_null(values.cast(pa.int64()), NO_TIME).to_numpy(), np.int64)
