"""A training set as arrays: what `jobs/training_set.py` wrote, or `pit.in_memory` made, and what `ranking/` reads.

Shapes: R requests, I impressions, H behaviours of all histories end to end, N tiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.pit import layout

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Labels with what was known when each was given. Requests are in input order, impressions too, those of a request together.

    Attributes:
        user_ids, item_ids: ids by row, both in id order.
        request_user: (R,) int64 rows of `user_ids`.
        request_time: (R,) int64 microseconds since 1970, UTC.
        known: (R,) int64, behaviours of the user strictly before the request, those beyond L too.
        history_items, history_vectors, history_times: (H,) int64: rows of `item_ids`, rows of `vectors` (-1: none), and times.
        history_offsets: (R + 1,) int64; request r has ``[history_offsets[r]:history_offsets[r + 1]]``, newest last.
        request: (I,) int64, rising rows of the requests.
        item, vector: (I,) int64 rows of `item_ids` and of `vectors` (-1: none).
        label: (I,) float32.
        label_row: (I,) int64, the rows of the input; rises.
        labels: further labels by name, (I,) float32, NaN where the input had none.
        scalars: by name, (I,) float32.
        counts: (I, N) int32, SimTier counts; N is 0 where no spec was asked for.
        missing: (I,) int32, behaviours that fell in no tier.
        vectors: the vectors pointed to, with ids; an item is there once per version. None: a set without vectors.
        card: the data card.

    Raises:
        ValueError: lengths that do not fit together.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    request_user: Ints
    request_time: Ints
    known: Ints
    history_items: Ints
    history_vectors: Ints
    history_times: Ints
    history_offsets: Ints
    request: Ints
    item: Ints
    vector: Ints
    label: Floats
    label_row: Ints
    labels: Mapping[str, Floats]
    scalars: Mapping[str, Floats]
    counts: NDArray[np.int32]
    missing: NDArray[np.int32]
    vectors: Embeddings | None
    card: Mapping[str, Any]

    def __post_init__(self) -> None:
        requests, behaviours, rows = len(self.request_user), len(self.history_items), len(self.item)
        by_row = (self.request, self.vector, self.label, self.label_row, self.counts, self.missing)
        expected: dict[str, tuple[int, list[NDArray[Any]]]] = {
            "requests": (requests, [self.request_time, self.known]),
            "history_offsets": (requests + 1, [self.history_offsets]),
            "behaviours": (behaviours, [self.history_vectors, self.history_times]),
            "impressions": (rows, [*by_row, *self.labels.values(), *self.scalars.values()]),
        }
        for what, (count, arrays) in expected.items():
            wrong = [len(a) for a in arrays if len(a) != count]
            if wrong:
                raise ValueError(f"TrainingSet: {what}: expected {count} rows, got {wrong[0]}")
        if int(self.history_offsets[-1]) != behaviours:
            raise ValueError(f"TrainingSet: history_offsets: expected to end at {behaviours}, got {self.history_offsets[-1]}")

    def __len__(self) -> int:
        """Impressions."""
        return len(self.item)

    @property
    def offsets(self) -> Ints:
        """(R + 1,) where each request's impressions start."""
        return np.searchsorted(self.request, np.arange(len(self.request_user) + 1)).astype(np.int64)


def read_training_set(folder: Path) -> TrainingSet:
    """The training set in a folder, whole, in memory.

    Raises:
        Misconfigured: no training set, one of another format version, or a damaged one.
    """
    card = layout.read_card(folder)
    requests = _parts(folder / layout.REQUESTS)
    rows = _parts(folder / layout.IMPRESSIONS)
    columns = layout.Columns.of(rows.schema, where=str(folder / layout.IMPRESSIONS))
    vectors, pointers = _vectors(pq.read_table(folder / layout.VECTORS))
    numbers, row_request = _int64(requests["request"]), _int64(rows["request"])
    request = np.searchsorted(numbers, row_request).astype(np.int64)
    label_row = _int64(rows["label_row"])
    rising = bool((np.diff(label_row) > 0).all() and (np.diff(numbers) > 0).all())
    if not rising or not np.array_equal(numbers[np.minimum(request, len(numbers) - 1)] if len(numbers) else request, row_request):
        raise Misconfigured(f"{folder}: expected rising rows, each with its request, got others; make the training set anew")
    user_ids, request_user = _users(requests["user_id"])
    histories, offsets = _lists(requests["history_items"])
    return TrainingSet(
        user_ids=user_ids,
        item_ids=tuple(pq.read_table(folder / layout.ITEMS)["item_id"].to_pylist()),
        request_user=request_user,
        request_time=_int64(requests["event_timestamp"].cast(pa.int64())),
        known=_int64(requests["known"]),
        history_items=histories,
        history_vectors=_places(pointers, _lists(requests["history_vectors"])[0]),
        history_times=_lists(requests["history_times"])[0],
        history_offsets=offsets,
        request=request,
        item=_int64(rows["item"]),
        vector=_places(pointers, _int64(rows["vector"])),
        label=_float32(rows["label"]),
        label_row=label_row,
        labels={name: _float32(rows[name]) for name in columns.labels},
        scalars={name: _float32(rows[name]) for name in columns.scalars},
        counts=_counts(rows, columns.tiers),
        missing=_int64(rows["missing"]).astype(np.int32),
        vectors=vectors,
        card=card,
    )


def _parts(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in layout.part_files(folder)])


def _vectors(table: pa.Table) -> tuple[Embeddings | None, Ints]:
    """The vectors, and the pointer of each."""
    space, pointers = layout.space_of(table.schema), _int64(table["vector"])
    if space is None:
        return None, pointers
    raw = b"".join(table["codes"].to_pylist())
    codes = np.frombuffer(raw, np.int8).reshape(table.num_rows, space.dim)
    inv_norm = _float32(table["inv_norm"])
    ids = tuple(table["item_id"].to_pylist())
    return Embeddings(space, codes, _float32(table["scale"]), inv_norm, inv_norm > 0, ids), pointers


def _places(pointers: Ints, wanted: Ints) -> Ints:
    """Rows of the pointers; -1 stays."""
    return np.where(wanted < 0, -1, np.searchsorted(pointers, wanted)).astype(np.int64)


def _users(ids: pa.ChunkedArray) -> tuple[tuple[str, ...], Ints]:
    known = pc.unique(ids).sort()
    return tuple(known.to_pylist()), _int64(pc.index_in(ids, known))


def _lists(values: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Values of all lists end to end, and (R + 1,) offsets."""
    sizes = pc.list_value_length(values).to_numpy().astype(np.int64)
    return _int64(pc.list_flatten(values)), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _counts(rows: pa.Table, tiers: int) -> NDArray[np.int32]:
    if not tiers:
        return np.zeros((rows.num_rows, 0), np.int32)
    flat: NDArray[np.int32] = pc.list_flatten(rows[layout.COUNTS]).to_numpy()
    return flat.reshape(rows.num_rows, tiers)


def _int64(values: pa.ChunkedArray) -> Ints:
    found: Ints = values.to_numpy().astype(np.int64)
    return found


def _float32(values: pa.ChunkedArray) -> Floats:
    """Null becomes NaN."""
    found: Floats = values.to_numpy().astype(np.float32)
    return found
