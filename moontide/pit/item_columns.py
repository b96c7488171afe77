"""Scalars of an item from the catalog, as of any moment (V rows of the offline table ``item_features``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.pit.arrays import open_arrays, save_arrays
from moontide.pit.ids import Ids
from moontide.pit.steps import Steps

Ints = NDArray[np.int64]
#: In this order. `price` is ``log1p`` of the price; each is 0 where it is unknown or the item is deleted.
SCALARS: Final = ("price", "has_image", "has_text")
TABLE_COLUMNS: Final = ("item_id", "source_version", "event_timestamp", "created", "deleted", *SCALARS)


class ItemColumns:
    """What the catalog said of an item at a time: the row that is highest by ``(source_version, event_timestamp, created)``
    among those whose ``event_timestamp`` is not after it.
    """

    def __init__(self, values: dict[str, NDArray[np.float32]], steps: Steps) -> None:
        self._values, self._steps = values, steps

    def __len__(self) -> int:
        """Rows."""
        return len(self._values[SCALARS[0]])

    @classmethod
    def build(cls, rows: Iterable[pa.Table], items: Ids) -> ItemColumns:
        """Read tables with `TABLE_COLUMNS`; rows of other items are left out."""
        found = [_wanted(table, items) for table in rows if table.num_rows]
        item = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in found)])
        empty = pa.schema([(name, pa.int64()) for name in TABLE_COLUMNS[1:]]).empty_table()
        table = pa.concat_tables([t for _, t in found]) if found else empty
        order = [_int64(table[name]) for name in ("source_version", "event_timestamp", "created")]
        steps = Steps.of(item, len(items), order[1], order, ~_flags(table["deleted"]))
        return cls({name: _float32(table[name]) for name in SCALARS}, steps)

    @classmethod
    def open(cls, folder: Path) -> ItemColumns:
        """What `save` wrote, read-only.

        Raises:
            Misconfigured: nothing there.
        """
        return cls(open_arrays(folder)[0], Steps(open_arrays(folder / "steps")[0]))

    def save(self, folder: Path) -> None:
        """Write everything as arrays that `open` maps into memory."""
        save_arrays(folder, self._values)
        save_arrays(folder / "steps", self._steps.arrays())

    def scalars(self, items: Ints, times: Ints) -> dict[str, NDArray[np.float32]]:
        """`SCALARS` by name, (Q,) float32 each, of rows of items at times (inclusive)."""
        rows = self._steps.at(items, times)
        found = {}
        for name in SCALARS:
            values = np.append(self._values[name], np.float32(0))[rows]
            found[name] = np.log1p(np.maximum(values, 0)) if name == "price" else values
        return found


def _wanted(table: pa.Table, items: Ids) -> tuple[Ints, pa.Table]:
    item = items.rows(table["item_id"])
    kept = table.filter(pa.array(item >= 0)).drop_columns(["item_id"])
    return item[item >= 0], kept


def _int64(column: pa.ChunkedArray) -> Ints:
    found: Ints = column.cast(pa.int64()).to_numpy()
    return found


def _flags(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = column.cast(pa.bool_()).to_numpy().astype(bool)
    return found


def _float32(column: pa.ChunkedArray) -> NDArray[np.float32]:
    whole: NDArray[np.float32] = pc.fill_null(column.cast(pa.float32()), 0).to_numpy()
    return np.where(np.isfinite(whole), whole, np.float32(0))
