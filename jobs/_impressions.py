"""Served candidates into labelled impressions: which impression each behaviour is credited to, in memory of the behaviours alone.

I impressions of a batch, B behaviours of the wanted actions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._behaviours import check
from jobs._rejects import Rejected, RejectFile, RowReason
from jobs._tables import InputTable, column, open_table, read_unit, without_bad_text
from moontide import names, schemas
from moontide.order import MAX_AHEAD_US
from moontide.pit.ids import Ids
from moontide.pit.spans import bisect, indices
from moontide.request_log import REQUEST_LOG

Ints = NDArray[np.int64]

#: What is written; the first five columns are `schemas.IMPRESSIONS`.
LABELLED: Final = pa.schema([*schemas.IMPRESSIONS, pa.field("position", pa.int32()), pa.field("service", pa.string())])
EXPECTED: Final = "expected ids, and a time from 1970 to now + 5 min"
_READ: Final = ("request_id", "user_id", "served_at", "service", "item_ids")
_TEXTS: Final = ("request_id", "user_id", "service")
_REQUESTS: Final = 256
_BEHAVIOURS: Final = 1 << 16


def open_log(path: str) -> InputTable:
    """The columns of a request log that impressions are made of.

    Raises:
        Misconfigured: nothing there, no Parquet, or other columns than a log's.
    """
    return open_table(path, pa.schema([REQUEST_LOG.field(name) for name in _READ]), _READ, what="request log")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """I impressions in the log's order.

    Attributes:
        rows: (I,) number among all impressions of the log.
        table: columns of `LABELLED` but the label.
    """

    rows: Ints
    table: pa.Table

    @property
    def served_at(self) -> Ints:
        """(I,) microseconds."""
        times: Ints = self.table[names.EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
        return times


@dataclass(slots=True)
class LogReader:
    """Impressions of a log, batch by batch, the same at every reading.

    Args:
        table: of `open_log`.
        services: only their requests; empty: all.
        now_us: requests served later than this (and 5 min) are rejected.

    Attributes:
        counts: of the last whole reading: requests, repeated (an item again within a request), rejected.
    """

    table: InputTable
    services: tuple[str, ...]
    now_us: int
    counts: Counter[str] = field(default_factory=Counter)

    def read(self, rejects: RejectFile | None = None) -> Iterator[Shown]:
        """All impressions; requests that cannot be used go to `rejects`, where there is one."""
        self.counts, first = Counter(), 0
        for unit in self.table.units:
            row = unit.first_row
            for batch in read_unit(self.table, unit, batch_rows=_REQUESTS):
                made, bad = self._shown(batch, first, unit.path, row)
                if rejects is not None:
                    rejects.add(bad)
                self.counts["rejected"] += len(bad)
                first, row = first + made.table.num_rows, row + len(batch)
                if made.table.num_rows:
                    yield made

    def _shown(self, batch: pa.RecordBatch, first: int, path: str, row: int) -> tuple[Shown, list[Rejected]]:
        """Impressions of some requests, numbered from `first`, and what was turned away; `row` is the first one's in its file."""
        text, bad_text = without_bad_text(batch, _TEXTS)
        found = {name: column(text, REQUEST_LOG.field(name)) for name in _READ}
        reasons = self._reasons(found, bad_text)
        wanted = np.ones(len(batch), bool)
        if self.services:
            wanted = pc.fill_null(pc.is_in(found["service"], pa.array(self.services)), False).to_numpy(zero_copy_only=False)
        turned = [
            self._reject(found, at, path, row, str(reasons[at])) for at in np.flatnonzero(wanted & (reasons != "")).tolist()
        ]
        good = np.flatnonzero(wanted & (reasons == ""))
        taken = {name: values.take(pa.array(good)) for name, values in found.items()}
        self.counts["requests"] += len(good)
        lists = taken["item_ids"]
        items, request = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
        sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
        position = np.arange(len(items)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        keep, more = self._usable(items, request, taken["request_id"], path, row, good)
        at = pa.array(request[keep])
        columns = {
            "user_id": taken["user_id"].take(at), "item_id": items.take(pa.array(keep)),
            "event_timestamp": taken["served_at"].take(at), "request_id": taken["request_id"].take(at),
            "position": pa.array(position[keep]), "service": taken["service"].take(at),
            "label": pa.nulls(len(keep), pa.float32()),
        }  # fmt: skip
        table = pa.table([columns[f.name].cast(f.type) for f in LABELLED], schema=LABELLED)
        return Shown(first + np.arange(len(keep)), table), turned + more

    def _usable(
        self, items: pa.Array, request: Ints, request_ids: pa.Array, path: str, row: int, good: Ints
    ) -> tuple[Ints, list[Rejected]]:
        """Rows of candidates with an id, each item of a request once (its first place), and the rejects."""
        valid = names.valid_ids(items)
        codes = items.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        once = np.zeros(len(items), bool)
        once[np.unique(request * (len(items) + 1) + codes, return_index=True)[1]] = True
        self.counts["repeated"] += int((valid & ~once).sum())
        rejects = [
            Rejected(path, row + int(good[request[at]]), _head(items[at]), RowReason.INVALID_ID.value,
                     f"{EXPECTED}; request {_head(request_ids[int(request[at])])}")
            for at in np.flatnonzero(~valid)
        ]  # fmt: skip
        return np.flatnonzero(valid & once), rejects

    def _reasons(self, found: dict[str, pa.Array], bad_text: NDArray[np.bool_]) -> NDArray[np.str_]:
        """Why each request is turned away; empty: it is not."""
        served = found["served_at"].cast(pa.int64())
        beyond = pc.or_(pc.less(served, 0), pc.greater(served, self.now_us + MAX_AHEAD_US))
        checks = [
            (RowReason.BAD_TEXT, bad_text),
            (RowReason.NO_ID, found["request_id"].is_null().to_numpy(zero_copy_only=False)),
            (RowReason.INVALID_ID, ~names.valid_ids(found["user_id"])),
            (RowReason.NO_EVENT_TIME, served.is_null().to_numpy(zero_copy_only=False)),
            (RowReason.EVENT_TIME_OUT_OF_RANGE, pc.fill_null(beyond, False).to_numpy(zero_copy_only=False)),
        ]
        out = np.full(len(bad_text), "", "<U32")
        for reason, failed in reversed(checks):
            out[failed] = reason.value
        return out

    def _reject(self, found: dict[str, pa.Array], at: int, path: str, row: int, reason: str) -> Rejected:
        return Rejected(path, row + at, None, reason, f"{EXPECTED}; request {_head(found['request_id'][at])}")


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


def _head(value: pa.Scalar) -> str:
    return str(value.as_py())[:80]
