"""A training set in the layout that FuxiCTR 2.x reads (github.com/reczoo/FuxiCTR): one flat row per impression.

``<set>/fuxictr/`` holds ``train``, ``valid`` and ``test`` (a Parquet file each, or blocks ``train/part_00000.parquet`` as
FuxiCTR's own preprocessing makes them), ``feature_map.json``, ``feature_vocab.json``, ``pretrained_item_vector.npz`` and
``dataset_config.yaml``. Its rules: index 0 is padding and the last index of a vocabulary stands for what training never saw
(users and items of valid and test alone); a sequence is a list of one length in every row, here oldest first with padding
behind it, which DIEN, DMIN and DMR demand and DIN allows; no value is a text or null, except that a label without a value is NaN.

A vector is addressed as everywhere here, by (item, version): `item_vector` and `vector_history` are indices of one frozen
table, so a label has the vector that was valid at its time. FuxiCTR's usual table, one vector per item id, could not say that.
In prose, with a model config to start from: `docs/reference/fuxictr.md`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit import fuxictr_files as files
from moontide.pit import layout
from moontide.pit.spans import indices
from moontide.pit.stream import Piece, pieces

FOLDER: Final = "fuxictr"
SPLITS: Final = ("train", "valid", "test")
#: Numbers held at a time.
_CELLS: Final = 1 << 22

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flat:
    """How impressions are split and flattened.

    Args:
        valid_from, test_from: microseconds since 1970, UTC; train is before the first, test from the second on.
        length: of the history columns; of a longer history they have the newest.
        log1p: `simtier` and `missing` as ``log(1 + count)``, because FuxiCTR transforms nothing at load; else plain counts.
        block_rows: rows of a block; 0: one file per split.

    Raises:
        Misconfigured: times out of order, or a number below its least.
    """

    valid_from: int
    test_from: int
    length: int = 50
    log1p: bool = True
    block_rows: int = 0

    def __post_init__(self) -> None:
        if self.valid_from > self.test_from:
            raise Misconfigured(f"fuxictr: expected validation to start before test, got {self.valid_from} and {self.test_from}")
        if self.length < 1 or self.block_rows < 0:
            raise Misconfigured(f"fuxictr: expected length from 1, block_rows from 0, got {self.length} and {self.block_rows}")

    def split(self, times: Ints) -> Ints:
        """Row of `SPLITS` for each time."""
        return (times >= self.valid_from).astype(np.int64) + (times >= self.test_from)


def write_fuxictr(folder: Path, flat: Flat, *, will_be: Path | None = None) -> dict[str, int]:
    """Write ``folder/fuxictr`` from the training set in `folder`; it appears when it is whole, in place of an older one.

    Memory holds users, items and vector pointers, whatever the number of impressions.

    Args:
        folder: the training set.
        flat: how.
        will_be: where the training set will lie, where `folder` is moved afterwards; ``dataset_config.yaml`` names it.

    Returns:
        Impressions by split; their sum is the number of the set. A split without any is a file without rows.

    Raises:
        Misconfigured: no training set, or one of another format version.
    """
    layout.read_card(folder)
    made = _Flattener(folder, flat)
    wide = 1 + flat.length * 2 + made.features.columns.tiers
    staged, out = folder / f".{FOLDER}.part", folder / FOLDER
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    counts = dict.fromkeys(SPLITS, 0)
    with files.SplitWriter(staged, made.features.schema(), SPLITS, flat.block_rows) as writer:
        for piece in pieces(folder, batch=max(1, _CELLS // wide)):
            rows, split = made.rows(piece), flat.split(_times(piece.requests)[piece.place])
            for number, name in enumerate(SPLITS):
                chosen = rows.filter(pa.array(split == number))
                writer.write(name, chosen)
                counts[name] += chosen.num_rows
    made.write_files(staged, (will_be or folder) / FOLDER)
    shutil.rmtree(out, ignore_errors=True)
    staged.rename(out)
    return counts


class _Flattener:
    """Vocabularies of one training set, and its impressions as flat rows."""

    def __init__(self, folder: Path, flat: Flat) -> None:
        self._folder, self._flat = folder, flat
        columns = layout.Columns.of(pq.read_schema(layout.part_files(folder / layout.IMPRESSIONS)[0]), where=str(folder))
        space = layout.space_of(pq.read_schema(folder / layout.VECTORS))
        self._pointers: Ints = pq.read_table(folder / layout.VECTORS, columns=["vector"])["vector"].to_numpy().astype(np.int64)
        #: Every user by number, as they come; then, by number or row, what training sees.
        self._users: dict[str, int] = {}
        self._trained_users, self._trained_items = self._learn()
        self._user_index, self._item_index = _indices(self._trained_users), _indices(self._trained_items)
        size = None if space is None else (len(self._pointers), space.dim)
        users, items = int(self._trained_users.sum()) + 2, int(self._trained_items.sum()) + 2
        self.features = files.Features(columns, users, items, size, flat.length)

    def rows(self, piece: Piece) -> pa.Table:
        """The flat rows of some impressions."""
        requests, place, impressions = piece.requests, piece.place, piece.rows
        user = self._numbers(requests)[place]
        made = {
            "group_id": pa.array(user),
            "user_id": pa.array(self._user_index[user]),
            "item_id": pa.array(self._item_index[impressions["item"].to_numpy()]),
            "item_history": self._history(requests["history_items"], self._item_index.__getitem__)[place],
            "missing": self._count(impressions["missing"]),
        }
        if self.features.vectors is not None:
            made["item_vector"] = pa.array(self._vector_index(impressions["vector"].to_numpy()))
            made["vector_history"] = self._history(requests["history_vectors"], self._vector_index)[place]
        if self.features.columns.tiers:
            made["simtier"] = self._count(pc.list_flatten(impressions[layout.COUNTS])).reshape(len(user), -1)
        schema = self.features.schema()
        return pa.table([_column(made.get(f.name, impressions), f) for f in schema], schema=schema)

    def write_files(self, staged: Path, out: Path) -> None:
        """Everything beside the rows; `out` is where the folder will lie."""
        features = self.features
        if features.vectors is not None:
            files.write_vectors(self._folder / layout.VECTORS, staged / files.VECTOR_FILE, features.vectors[1])
        items = pq.read_table(self._folder / layout.ITEMS, columns=["item_id"])["item_id"]
        tokens = {
            "user_id": [user for user, number in self._users.items() if self._trained_users[number]],
            "item_id": items.filter(pa.array(self._trained_items)).to_pylist(),
            "item_vector": [str(pointer) for pointer in self._pointers.tolist()],
        }
        files.write_vocabulary(staged / "feature_vocab.json", features, tokens)
        text = json.dumps(features.feature_map(FOLDER), indent=4)
        (staged / "feature_map.json").write_text(text + "\n", encoding="utf-8")
        files.write_config(staged / "dataset_config.yaml", out, SPLITS, blocks=self._flat.block_rows > 0)

    def _learn(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """By user and by item: whether training sees it, as a label or in a history. Every user gets a number."""
        items = np.zeros(pq.read_metadata(self._folder / layout.ITEMS).num_rows, np.bool_)
        trained: list[Ints] = [np.zeros(0, np.int64)]
        wanted = ("request", "user_id", "event_timestamp", "history_items")
        batch = max(1, _CELLS // (1 + self._flat.length))
        for piece in pieces(self._folder, columns=("request", "item"), request_columns=wanted, batch=batch):
            number, train = self._numbers(piece.requests), self._flat.split(_times(piece.requests)) == 0
            trained.append(np.unique(number[train]))
            items[piece.rows["item"].to_numpy()[train[piece.place]]] = True
            histories, _ = _newest(piece.requests.filter(pa.array(train))["history_items"], self._flat.length)
            items[histories] = True
        users = np.zeros(len(self._users), np.bool_)
        users[np.concatenate(trained)] = True
        return users, items

    def _numbers(self, requests: pa.Table) -> Ints:
        """(R,) the number of each request's user; a user not met before gets the next one."""
        coded = requests["user_id"].combine_chunks().dictionary_encode()
        known = [self._users.setdefault(user, len(self._users)) for user in coded.dictionary.to_pylist()]
        found: Ints = np.array(known, np.int64)[coded.indices.to_numpy()]
        return found

    def _vector_index(self, pointers: Ints) -> Ints:
        """Index in the frozen table; no vector is padding, whose vector is zero."""
        return np.where(pointers < 0, 0, np.searchsorted(self._pointers, pointers) + 1)

    def _history(self, lists: pa.ChunkedArray, index: Callable[[Ints], Ints]) -> NDArray[np.int32]:
        """(R, L) int32, oldest first, padding behind."""
        values, sizes = _newest(lists, self._flat.length)
        padded = np.zeros((len(sizes), self._flat.length), np.int32)
        padded[np.arange(self._flat.length) < sizes[:, None]] = index(values)
        return padded

    def _count(self, counts: pa.ChunkedArray) -> NDArray[np.float32]:
        found: NDArray[np.float32] = counts.to_numpy().astype(np.float32)
        return np.log1p(found) if self._flat.log1p else found


def _newest(lists: pa.ChunkedArray, length: int) -> tuple[Ints, Ints]:
    """The last `length` values of each list end to end, and how many each has."""
    sizes = pc.list_value_length(lists).to_numpy().astype(np.int64)
    stop = np.cumsum(sizes)
    rows, _ = indices(np.maximum(stop - sizes, stop - length), stop)
    values: Ints = pc.list_flatten(lists).to_numpy().astype(np.int64)
    return values[rows], np.minimum(sizes, length)


def _indices(seen: NDArray[np.bool_]) -> Ints:
    """1 to K for the K that were seen, in order, and K + 1 for all others."""
    return np.where(seen, np.cumsum(seen), int(seen.sum()) + 1)


def _times(requests: pa.Table) -> Ints:
    found: Ints = requests["event_timestamp"].cast(pa.int64()).to_numpy()
    return found


def _column(values: pa.Table | pa.Array | NDArray[np.generic], field: pa.Field) -> pa.Array:
    """A column of `field`'s type: from the impressions where nothing else was made for it; a matrix as lists; null as NaN."""
    if isinstance(values, pa.Table):
        plain = values[field.name].combine_chunks().cast(field.type)
        return pc.fill_null(plain, float("nan")) if plain.null_count else plain
    if isinstance(values, np.ndarray) and values.ndim == 2:
        offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(values.ravel())).cast(field.type)
    return pa.array(values).cast(field.type)
