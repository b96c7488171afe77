"""Behaviour Parquet as arrays, each behaviour once, and the ids of everything a training set is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._behaviours import check
from jobs._rejects import Rejected, RejectFile
from jobs._tables import InputTable, read_unit, without_bad_text
from moontide import names
from moontide.pit.aggregates import Activity
from moontide.pit.ids import Ids

Ints = NDArray[np.int64]
_BATCH_ROWS = 1 << 16
_COLUMNS = ("user_id", "item_id", "action")
_EXPECTED = "expected ids, an action of 1 to 64 characters, and a time from 1970 to now + 5 min"


def labelled_items(table: InputTable) -> Iterator[pa.Array]:
    """The distinct valid item ids of each batch of labels; no other column is read."""
    only = table._replace(columns=(names.ITEM_ID,))
    for unit in table.units:
        for batch in read_unit(only, unit, batch_rows=_BATCH_ROWS):
            text, _ = without_bad_text(batch, only.columns)
            found = pc.unique(text.column(0).cast(pa.string()))
            yield found.filter(pa.array(names.valid_ids(found)))


def read_activity(
    labels: InputTable, behaviours: InputTable | None, rejects: RejectFile, now_us: int, said: Callable[[int], None]
) -> tuple[tuple[Ids, Ids], Activity]:
    """Ids of users with a behaviour, ids of all items, and the behaviours.

    Args:
        labels: whose items are wanted too.
        behaviours: rows of `schemas.BEHAVIOURS`; None: nobody ever did anything.
        rejects: takes the rows that are turned away.
        now_us: later behaviours are turned away.
        said: told of each batch of rows.
    """
    parts = [] if behaviours is None else list(_checked(behaviours, rejects, now_us, said))
    users = Ids.of(part["user_id"].dictionary for part in parts)
    items = Ids.of([*(part["item_id"].dictionary for part in parts), *labelled_items(labels)])
    user = _joined(users.rows(part["user_id"]) for part in parts)
    item = _joined(items.rows(part["item_id"]) for part in parts)
    time = _joined(part["event_us"].to_numpy() for part in parts)
    actions = pa.chunked_array([part["action"] for part in parts], pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    action = _joined(chunk.indices.to_numpy() for chunk in actions.chunks)
    once = _distinct(user, time, item, action)
    return (users, items), Activity(user[once], item[once], time[once], len(items))


def _checked(table: InputTable, rejects: RejectFile, now_us: int, said: Callable[[int], None]) -> Iterator[dict[str, pa.Array]]:
    """Good rows in batches; texts are dictionaries."""
    for unit in table.units:
        row = unit.first_row
        for batch in read_unit(table, unit, batch_rows=_BATCH_ROWS):
            found = check(batch, now_us, source=unit.source, first_row=row)
            bad = found.filter(found["reason"].is_valid())
            rejects.add(_rejected(one, unit.path) for one in bad.to_pylist())
            good = found.filter(found["reason"].is_null())
            row += len(batch)
            said(len(batch))
            yield {name: good[name].dictionary_encode() for name in _COLUMNS} | {"event_us": good["event_us"]}


def _rejected(row: dict[str, object], path: str) -> Rejected:
    item = None if row["item_id"] is None else str(row["item_id"])[:80]
    return Rejected(path, int(str(row["row"])), item, str(row["reason"]), f"user {str(row['user_id'])[:80]!r}; {_EXPECTED}")


def _distinct(user: Ints, time: Ints, item: Ints, action: Ints) -> Ints:
    """Rows of distinct behaviours, by (user, time, item)."""
    order = np.lexsort((action, item, time, user))
    fresh = np.ones(len(order), bool)
    fresh[1:] = np.any([values[order][1:] != values[order][:-1] for values in (user, time, item, action)], axis=0)
    return order[fresh]


def _joined(parts: Iterator[NDArray[np.integer]]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
