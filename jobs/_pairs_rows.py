"""Rows of sales, behaviours and searches: one schema, checked before a pair is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from encoders.tables import ALIASES
from encoders.transactions import CANCELLATION
from jobs._behaviours import ACTION_MAX_CHARS
from jobs._rejects import RowReason
from jobs._tables import InputTable, column, file_system, open_table, read_unit, without_bad_text
from moontide import names, schemas
from moontide.errors import Misconfigured
from moontide.order import MAX_AHEAD_US


class PairReason(StrEnum):
    """Why a row makes no pair, besides `RowReason`; values are stable."""

    UNKNOWN_ITEM = "unknown_item"
    CANCELLED = "cancelled"
    NO_QUERY = "no_query"
    SELF_PAIR = "self_pair"


#: No fault of the row: counted in the data card, not rejected.
AFTER_CUTOFF: Final = "after_cutoff"
#: Actions that are a purchase; any other is a click.
PURCHASES: Final = ("purchase", "buy", "order")
#: What `check` yields; a row with a `reason` is not to be used. `place` counts the tables handed to the job.
ROWS: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("basket_id", pa.string()),
        ("session_id", pa.string()),
        ("query_text", pa.string()),
        ("query_image", pa.string()),
        ("item_id", pa.string()),
        ("action", pa.string()),
        ("event_us", pa.int64()),
        ("place", pa.int32()),
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),
    ]
)
_TEXTS: Final = ("user_id", "basket_id", "session_id", "query_text", "query_image", "item_id", "action")
_TIME: Final = pa.field(names.EVENT_TIMESTAMP, schemas.TIMESTAMP)
_QUANTITY: Final = pa.field("Quantity", pa.float64())
_COLUMNS: Final = {
    "transactions": ("basket_id", "item_id"),
    "behaviours": ("user_id", "item_id", "action"),
    "searches": ("user_id", "session_id", "query_text", "query_image", "item_id", "action"),
}
_NEEDED: Final = {
    "transactions": ("basket_id", "item_id"),
    "behaviours": ("user_id", "item_id", "action"),
    "searches": ("user_id",),
}
_BATCH_ROWS: Final = 16_384
_DETAILS: Final[dict[str, str]] = {
    RowReason.BAD_TEXT: "expected UTF-8 text",
    RowReason.NO_ID: "expected an item, and the basket it was sold in",
    RowReason.INVALID_ID: "expected user and item ids of 1 to 64 characters of [A-Za-z0-9._:-]",
    RowReason.BAD_ACTION: f"expected an action of 1 to {ACTION_MAX_CHARS} characters",
    RowReason.NO_EVENT_TIME: "expected an event time, got none",
    RowReason.EVENT_TIME_OUT_OF_RANGE: "expected an event time from 1970 to now + 5 min",
    PairReason.UNKNOWN_ITEM: "expected an item of the catalog before the cut-off",
    PairReason.CANCELLED: "expected a sale, got a cancellation or a quantity of 0 or less",
    PairReason.NO_QUERY: "expected query_text or query_image, got neither",
    PairReason.SELF_PAIR: "expected a searched picture that is not one of the item's own",
}


class Rows(NamedTuple):
    """One table of a folder: `what` it is, and which column of the file holds which field of `ROWS`."""

    what: str
    table: InputTable
    columns: dict[str, str]


def detail_of(reason: str) -> str:
    """What was expected of a row rejected for `reason`; never the content."""
    return _DETAILS[reason]


def has_table(uri: str, name: str) -> bool:
    """Whether the folder `uri` holds the file, or the folder of Parquet files, ``name``."""
    system, base = file_system(uri)
    return bool(system.get_file_info(f"{base}/{name}").type != pafs.FileType.NotFound)


def open_rows(uri: str, what: str) -> Rows | None:
    """``<uri>/<what>.parquet``, or None where the folder has none.

    Raises:
        Misconfigured: no Parquet, or a column is missing or of another kind.
    """
    if not has_table(uri, f"{what}.parquet"):
        return None
    path = f"{uri.rstrip('/')}/{what}.parquet"
    # The first look is only for the names of the columns, which public data sets choose themselves.
    found = _columns_of(open_table(path, pa.schema([]), (), what=what))
    named = {field: _alias(field, found) for field in (*_COLUMNS[what], names.EVENT_TIMESTAMP)}
    required = tuple(named[f] for f in (*_NEEDED[what], names.EVENT_TIMESTAMP))
    fields = [pa.field(named[f], pa.string()) for f in _COLUMNS[what]] + [_TIME.with_name(named[names.EVENT_TIMESTAMP])]
    extra = [_QUANTITY] if what == "transactions" else []
    table = open_table(path, pa.schema([*fields, *extra]), required, what=what)
    if what == "searches" and not set(table.columns) & {"query_text", "query_image"}:
        raise Misconfigured(f"{path}: expected a column query_text or query_image, got {found}; add one")
    return Rows(what, table, named)


def _alias(field: str, found: list[str]) -> str:
    options = ALIASES.get(field, (field,))
    return next((name for name in options if name in found), options[0])


def _columns_of(table: InputTable) -> list[str]:
    system, _ = file_system(table.uri)
    with pq.ParquetFile(system.open_input_file(table.files[0])) as source:
        return list(source.schema_arrow.names)


class ReadRows:
    """`mapInArrow` over unit numbers: checked rows of one table.

    Args:
        rows: the table.
        place: which one of the job's tables it is.
        now_us: the time of the run.
        cutoff_us: rows of that moment and later are left out; None for all.
    """

    def __init__(self, rows: Rows, place: int, now_us: int, cutoff_us: int | None) -> None:
        self._rows, self._place, self._now_us, self._cutoff_us = rows, place, now_us, cutoff_us

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read the units named in `batches`."""
        table = self._rows.table
        for batch in batches:
            for number in batch.column(0).to_pylist():
                unit = table.units[number]
                row = unit.first_row
                for found in read_unit(table, unit, batch_rows=_BATCH_ROWS):
                    yield self.check(found, source=unit.source, first_row=row)
                    row += len(found)

    def check(self, batch: pa.RecordBatch, *, source: int, first_row: int) -> pa.RecordBatch:
        """One batch of the file as `ROWS`: white space around texts goes, an empty text is none."""
        named = self._rows.columns
        batch, bad = without_bad_text(batch, [named[f] for f in _TEXTS if f in named])
        raw = {f: _text(batch, named[f]) if f in named else pa.nulls(len(batch), pa.string()) for f in _TEXTS}
        time = column(batch, _TIME.with_name(named[names.EVENT_TIMESTAMP])).cast(pa.int64())
        reasons = np.full(len(batch), None, object)
        if self._cutoff_us is not None:
            reasons[_flags(pc.greater_equal(time, self._cutoff_us))] = AFTER_CUTOFF
        times = [
            (RowReason.NO_EVENT_TIME, _flags(pc.is_null(time))),
            (RowReason.EVENT_TIME_OUT_OF_RANGE, _flags(pc.or_(pc.less(time, 0), pc.greater(time, self._now_us + MAX_AHEAD_US)))),
        ]
        for reason, failed in reversed([(RowReason.BAD_TEXT, bad), *self._checks(raw, batch), *times]):
            reasons[failed] = reason.value
        out = raw | {
            "event_us": time,
            "place": pa.array(np.full(len(batch), self._place, np.int32)),
            "source": pa.array(np.full(len(batch), source, np.int32)),
            "row": pa.array(np.arange(first_row, first_row + len(batch))),
            "reason": pa.array(reasons, pa.string()),
        }
        return pa.RecordBatch.from_arrays([out[f.name] for f in ROWS], schema=ROWS)

    def _checks(self, raw: dict[str, pa.Array], batch: pa.RecordBatch) -> list[tuple[StrEnum, NDArray[np.bool_]]]:
        if self._rows.what == "transactions":
            back = _flags(pc.match_substring_regex(raw["basket_id"], f"^(?:{CANCELLATION})$"))
            if _QUANTITY.name in batch.schema.names:
                back |= _flags(pc.less_equal(column(batch, _QUANTITY), 0))
            return [(RowReason.NO_ID, _none(raw["basket_id"]) | _none(raw["item_id"])), (PairReason.CANCELLED, back)]
        size = pc.fill_null(pc.utf8_length(raw["action"]), 0)
        action = _flags(pc.or_(pc.equal(size, 0), pc.greater(size, ACTION_MAX_CHARS)))
        if self._rows.what == "behaviours":
            wrong = ~(names.valid_ids(raw["user_id"]) & names.valid_ids(raw["item_id"]))
            return [(RowReason.INVALID_ID, wrong), (RowReason.BAD_ACTION, action)]
        acted = ~_none(raw["item_id"])
        return [
            (RowReason.INVALID_ID, ~names.valid_ids(raw["user_id"])),
            (PairReason.NO_QUERY, _none(raw["query_text"]) & _none(raw["query_image"])),
            (RowReason.BAD_ACTION, acted & action),
        ]


def _text(batch: pa.RecordBatch, name: str) -> pa.Array:
    found = pc.utf8_trim_whitespace(column(batch, pa.field(name, pa.string())))
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)


def _none(values: pa.Array) -> NDArray[np.bool_]:
    return _flags(pc.is_null(values))


def _flags(values: pa.Array) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = np.array(pc.fill_null(values, False).to_numpy(zero_copy_only=False))
    return out
