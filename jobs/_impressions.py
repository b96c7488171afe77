"""Which impression each behaviour is credited to, in memory of the behaviours alone.

I impressions of a batch, B behaviours of the wanted actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._behaviours import check
from jobs._rejects import Rejected, RejectFile
from jobs._served_log import EXPECTED, Shown
from jobs._tables import InputTable, read_unit
from moontide.pit.ids import Ids
from moontide.pit.spans import bisect, indices

Ints = NDArray[np.int64]

_BEHAVIOURS: Final = 1 << 16


class Credit:
    """To which impression each behaviour goes: the latest one strictly before it, of the same user and item, within a span.

    Of two at one microsecond it is the later in the log. Memory: some 50 bytes a behaviour.

    Args:
        user_ids, item_ids: who did what, B strings each.
        time: (B,) microseconds.
        within_us: the span; a behaviour at its very end counts.
    """

    def __init__(self, user_ids: pa.ChunkedArray, item_ids: pa.ChunkedArray, time: Ints, within_us: int) -> None:
        self._users, self._items, self._within = Ids.of([user_ids]), Ids.of([item_ids]), within_us
        key = self._users.rows(user_ids) * max(len(self._items), 1) + self._items.rows(item_ids)
        order = np.lexsort((time, key))
        self._key, self._time = key[order], time[order]
        self._served = np.full(len(key), np.iinfo(np.int64).min)
        self._row = np.full(len(key), -1)
        self._winners: Ints | None = None

    def see(self, shown: Shown) -> None:
        """Take part of the log, in any order."""
        self._winners = None
        users, items = self._users.rows(shown.table["user_id"]), self._items.rows(shown.table["item_id"])
        at = np.flatnonzero((users >= 0) & (items >= 0))
        if not len(at):
            return
        key, served, rows = users[at] * max(len(self._items), 1) + items[at], shown.served_at[at], shown.rows[at]
        start, stop = (np.searchsorted(self._key, key, side) for side in ("left", "right"))
        start, stop = (bisect(self._time, start, stop, until, right=True) for until in (served, served + self._within))
        behaviour, offsets = indices(start, stop)
        which = np.repeat(np.arange(len(at)), np.diff(offsets))
        order = np.lexsort((rows[which], served[which], behaviour))
        behaviour, which = behaviour[order], which[order]
        last = np.append(behaviour[1:] != behaviour[:-1], True)[: len(behaviour)]
        behaviour, which = behaviour[last], which[last]
        old, new = self._served[behaviour], served[which]
        better = (new > old) | ((new == old) & (rows[which] > self._row[behaviour]))
        behaviour, which = behaviour[better], which[better]
        self._served[behaviour], self._row[behaviour] = served[which], rows[which]

    @property
    def credited(self) -> int:
        """Behaviours that have an impression, of what was seen so far."""
        return int((self._row >= 0).sum())

    def __len__(self) -> int:
        return len(self._row)

    def labels(self, shown: Shown) -> NDArray[np.float32]:
        """(I,) 1 where a behaviour went to the impression, once the whole log was seen."""
        if self._winners is None:
            self._winners = np.unique(self._row)
        at = np.searchsorted(self._winners, shown.rows)
        found: NDArray[np.float32] = (np.append(self._winners, -2)[at] == shown.rows).astype(np.float32)
        return found


def read_behaviours(
    table: InputTable, actions: Sequence[str], now_us: int, rejects: RejectFile | None
) -> tuple[pa.ChunkedArray, pa.ChunkedArray, Ints, int]:
    """Users, items and times of the behaviours of `actions`, and how many of any action were turned away."""
    kept: list[pa.RecordBatch] = []
    bad_rows = 0
    for unit in table.units:
        row = unit.first_row
        for batch in read_unit(table, unit, batch_rows=_BEHAVIOURS):
            rows = check(batch, now_us, source=unit.source, first_row=row)
            row += len(batch)
            bad = rows.filter(rows["reason"].is_valid())
            bad_rows += len(bad)
            if rejects is not None:
                rejects.add(
                    Rejected(unit.path, found["row"], found["item_id"], found["reason"], f"{EXPECTED}, and an action")
                    for found in bad.to_pylist()
                )
            good = pc.and_(rows["reason"].is_null(), pc.fill_null(pc.is_in(rows["action"], pa.array(list(actions))), False))
            kept.append(rows.filter(good).select(["user_id", "item_id", "event_us"]))
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("event_us", pa.int64())])
    whole = pa.Table.from_batches(kept, schema)
    return whole["user_id"], whole["item_id"], whole["event_us"].to_numpy(), bad_rows
