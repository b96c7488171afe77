"""Impressions out of a log of served requests: each candidate of each request whose answer was used, once."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._rejects import Rejected, RejectFile, RowReason
from jobs._tables import InputTable, column, open_table, read_unit, without_bad_text
from moontide import names, schemas
from moontide.order import MAX_AHEAD_US
from moontide.request_log import DIGEST_BYTES, REQUEST_LOG

Ints = NDArray[np.int64]

#: What is written; the first five columns are `schemas.IMPRESSIONS`.
LABELLED: Final = pa.schema([*schemas.IMPRESSIONS, pa.field("position", pa.int32()), pa.field("service", pa.string())])
EXPECTED: Final = "expected ids, and a time from 1970 to now + 5 min"
_READ: Final = ("request_id", "user_id", "served_at", "service", "item_ids")
_TEXTS: Final = ("request_id", "user_id", "service")
_REQUESTS: Final = 256


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
        counts: of the last whole reading: requests, repeated (an item again within a request), again (requests that came
            again later, with the same id, user and service: their answer was not used), rejected.
    """

    table: InputTable
    services: tuple[str, ...]
    now_us: int
    counts: Counter[str] = field(default_factory=Counter)
    _last: NDArray[np.bool_] | None = None

    def read(self, rejects: RejectFile | None = None) -> Iterator[Shown]:
        """All impressions; requests that cannot be used go to `rejects`, where there is one."""
        if self._last is None:
            self._last = self._lasts()
        self.counts, first, request = Counter(), 0, 0
        for unit in self.table.units:
            row = unit.first_row
            for batch in read_unit(self.table, unit, batch_rows=_REQUESTS):
                last = self._last[request : request + len(batch)]
                made, bad = self._shown(batch, last, first, unit.path, row)
                if rejects is not None:
                    rejects.add(bad)
                self.counts["rejected"] += len(bad)
                first, row, request = first + made.table.num_rows, row + len(batch), request + len(batch)
                if made.table.num_rows:
                    yield made

    def _lasts(self) -> NDArray[np.bool_]:
        """Whether each row of the log is the last of its request. Memory: 1 byte a row, some 100 while they are sorted."""
        digests, served, at, first = bytearray(), array("q"), array("q"), 0
        table = self.table._replace(columns=tuple(name for name in self.table.columns if name != "item_ids"))
        for unit in table.units:
            for batch in read_unit(table, unit, batch_rows=_REQUESTS):
                found, reasons, wanted = self._checked(batch)
                good = pa.array(np.flatnonzero(wanted & (reasons == "")))
                for key in zip(*(found[name].take(good).to_pylist() for name in _TEXTS), strict=True):
                    # Neither a user id nor a service holds a zero byte.
                    digests += blake2b("\0".join(map(str, key)).encode(), digest_size=DIGEST_BYTES).digest()
                served.frombytes(found["served_at"].take(good).cast(pa.int64()).to_numpy().tobytes())
                at.frombytes((good.to_numpy() + first).tobytes())
                first += len(batch)
        last = np.zeros(first, bool)
        keys, rows = np.frombuffer(bytes(digests), np.int64).reshape(-1, 2), np.array(at, np.int64)
        order = np.lexsort((rows, np.array(served, np.int64), keys[:, 1], keys[:, 0]))
        keys, rows = keys[order], rows[order]
        last[rows[np.append((keys[1:] != keys[:-1]).any(axis=1), True)[: len(rows)]]] = True
        return last

    def _checked(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], NDArray[np.str_], NDArray[np.bool_]]:
        """Columns of some requests, why each is turned away (empty: it is not), and whether its service is wanted."""
        text, bad_text = without_bad_text(batch, _TEXTS)
        found = {name: column(text, REQUEST_LOG.field(name)) for name in _READ}
        wanted = np.ones(len(batch), bool)
        if self.services:
            wanted = pc.fill_null(pc.is_in(found["service"], pa.array(self.services)), False).to_numpy(zero_copy_only=False)
        return found, self._reasons(found, bad_text), wanted

    def _shown(
        self, batch: pa.RecordBatch, last: NDArray[np.bool_], first: int, path: str, row: int
    ) -> tuple[Shown, list[Rejected]]:
        """Impressions of some requests, numbered from `first`, and what was turned away; `row` is the first one's in its file."""
        found, reasons, wanted = self._checked(batch)
        turned = [
            self._reject(found, at, path, row, str(reasons[at])) for at in np.flatnonzero(wanted & (reasons != "")).tolist()
        ]
        self.counts["again"] += int((wanted & (reasons == "") & ~last).sum())
        good = np.flatnonzero(wanted & last)
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


def _head(value: pa.Scalar) -> str:
    return str(value.as_py())[:80]
