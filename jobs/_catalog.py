"""Catalog rows: one schema for every site's file, and the checks that need no content to be opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._rejects import RowReason
from jobs._tables import InputTable, column, open_table, read_unit, without_bad_text
from moontide import names, schemas
from moontide.errors import Misconfigured
from moontide.order import MAX_AHEAD_US

#: What `read_catalog` yields. `key` is the item id of a good row and unique for a rejected one (which has a `reason`).
ROWS: Final = pa.schema(
    [
        ("key", pa.string()),
        ("item_id", pa.string()),
        ("source_version", pa.int64()),
        ("event_us", pa.int64()),
        ("deleted", pa.bool_()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("attributes", pa.string()),
        ("image", pa.string()),
        ("image_bytes", pa.binary()),
        ("category", pa.string()),
        ("price", pa.float64()),
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_TEXTS: Final = ("title", "description", "attributes", "image", "category")
_CONTENT: Final = (*_TEXTS, "image_bytes")
_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Rules:
    """What a row is checked against.

    Args:
        now_us: the time of the run.
        title_max_chars: longer titles are rejected.
        snapshot_us: version and time of a catalog that has none of its own.
    """

    now_us: int
    title_max_chars: int
    snapshot_us: int | None = None


def open_catalog(uri: str, *, snapshot_us: int | None) -> InputTable:
    """A catalog whose columns can be used.

    Raises:
        Misconfigured: as `open_table`; no content column; no versions or times, and no snapshot time instead.
    """
    table = open_table(uri, schemas.CATALOG, (names.ITEM_ID,), what="catalog")
    if not set(table.columns) & set(schemas.CATALOG_CONTENT):
        raise Misconfigured(
            f"catalog {uri}: expected one of the columns {list(schemas.CATALOG_CONTENT)}, got {list(table.columns)}; "
            "add one (see docs/reference/schemas.md)"
        )
    lacking = [c for c in (names.SOURCE_VERSION, names.EVENT_TIMESTAMP) if c not in table.columns]
    if lacking and snapshot_us is None:
        raise Misconfigured(
            f"catalog {uri}: expected columns {names.SOURCE_VERSION} and {names.EVENT_TIMESTAMP}, got no {lacking}; "
            "add them, or name the moment the catalog was true with --snapshot-time"
        )
    return table


def read_catalog(table: InputTable, number: int, rules: Rules, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of `ROWS` of the unit `number`, checked."""
    unit = table.units[number]
    row = unit.first_row
    for batch in read_unit(table, unit, batch_rows=batch_rows):
        yield check(batch, rules, source=unit.source, first_row=row)
        row += len(batch)


def check(batch: pa.RecordBatch, rules: Rules, *, source: int, first_row: int) -> pa.RecordBatch:
    """One batch of a catalog as `ROWS`; a row that fails a check keeps its id and place and loses its content."""
    raw = _columns(batch)
    event = raw[names.EVENT_TIMESTAMP].cast(pa.int64())
    version = raw[names.SOURCE_VERSION]
    if rules.snapshot_us is not None:
        moment = pa.scalar(rules.snapshot_us, pa.int64())
        version = version if names.SOURCE_VERSION in batch.schema.names else pc.fill_null(version, moment)
        event = pc.fill_null(event, moment)
    raw |= {"version": version, "event": event}
    reasons = _reasons(raw, rules)
    good = np.array([r is None for r in reasons], np.bool_) if len(reasons) else np.zeros(0, np.bool_)
    rows = np.arange(first_row, first_row + len(batch))
    shown = pc.utf8_slice_codeunits(raw[names.ITEM_ID], 0, _SHOWN)
    out: dict[str, pa.Array] = {
        "key": _keys(raw[names.ITEM_ID], good, source, rows),
        "item_id": pc.if_else(pa.array(good), raw[names.ITEM_ID], shown),
        "source_version": version,
        "event_us": event,
        "deleted": raw["deleted"],
        "price": raw["price"],
        "source": pa.array(np.full(len(batch), source, np.int32)),
        "row": pa.array(rows),
        "reason": pa.array(reasons, pa.string()),
        "detail": pa.array(_details(raw, reasons, rules), pa.string()),
    }
    kept = pa.array(good)
    for name in _CONTENT:
        out[name] = raw[name] if good.all() else pc.if_else(kept, raw[name], pa.scalar(None, raw[name].type))
    return pa.RecordBatch.from_arrays([out[f.name] for f in ROWS], schema=ROWS)


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The contract's columns in its types; text that is no text is null and flagged in ``bad_text``."""
    batch, bad = without_bad_text(batch, (names.ITEM_ID, *_TEXTS))
    found = {f.name: column(batch, f) for f in schemas.CATALOG}
    found["deleted"] = pc.fill_null(found["deleted"], False)
    return found | {"bad_text": pa.array(bad)}


def _reasons(raw: dict[str, pa.Array], rules: Rules) -> list[str | None]:
    """Why each row is rejected, by the first check it fails; None for a good row."""
    ids = raw[names.ITEM_ID]
    live = ~_flags(raw["deleted"])
    late = pc.or_(pc.greater(raw["event"], rules.now_us + MAX_AHEAD_US), pc.less(raw["event"], 0))
    checks: list[tuple[RowReason, NDArray[np.bool_]]] = [
        (RowReason.BAD_TEXT, _flags(raw["bad_text"])),
        (RowReason.NO_ID, _blank(ids)),
        (RowReason.INVALID_ID, ~names.valid_ids(ids)),
        (RowReason.NO_VERSION, _flags(pc.is_null(raw["version"]))),
        (RowReason.NO_EVENT_TIME, _flags(pc.is_null(raw["event"]))),
        (RowReason.EVENT_TIME_OUT_OF_RANGE, _flags(late)),
        (RowReason.BAD_PRICE, live & _flags(pc.invert(pc.is_finite(raw["price"].cast(pa.float32(), safe=False))))),
        (RowReason.TITLE_TOO_LONG, live & _flags(pc.greater(pc.utf8_length(raw["title"]), rules.title_max_chars))),
        (RowReason.NO_CONTENT, live & _empty(raw)),
    ]
    reasons: list[str | None] = [None] * len(ids)
    for reason, failed in reversed(checks):
        for row in np.flatnonzero(failed):
            reasons[row] = reason.value
    return reasons


def _details(raw: dict[str, pa.Array], reasons: list[str | None], rules: Rules) -> list[str | None]:
    wanted: dict[str, Callable[[int], str]] = {
        RowReason.BAD_TEXT: lambda n: "expected UTF-8 text",
        RowReason.NO_ID: lambda n: "expected an item_id, got none",
        RowReason.INVALID_ID: lambda n: "expected 1 to 64 characters of [A-Za-z0-9._:-]",
        RowReason.NO_VERSION: lambda n: "expected an int64 source_version, got none",
        RowReason.NO_EVENT_TIME: lambda n: "expected an event_timestamp, got none",
        RowReason.EVENT_TIME_OUT_OF_RANGE: lambda n: (
            f"expected 0 to now + 5 min in microseconds ({rules.now_us + MAX_AHEAD_US}), got {raw['event'][n].as_py()}"
        ),
        RowReason.BAD_PRICE: lambda n: f"expected a finite float32 or none, got {raw['price'][n].as_py()}",
        RowReason.TITLE_TOO_LONG: lambda n: (
            f"expected at most {rules.title_max_chars} characters, got {len(raw['title'][n].as_py())}"
        ),
        RowReason.NO_CONTENT: lambda n: "expected an image or text, got neither",
    }
    return [None if reason is None else wanted[reason](row) for row, reason in enumerate(reasons)]


def _keys(ids: pa.Array, good: NDArray[np.bool_], source: int, rows: NDArray[np.int64]) -> pa.Array:
    if good.all():
        return ids
    # A space is in no id, so such a key meets no other.
    places = pa.array([f" {source}:{row}" for row in rows])
    return pc.if_else(pa.array(good), ids, places)


def _empty(raw: dict[str, pa.Array]) -> NDArray[np.bool_]:
    empty = _blank(raw["image"]) & _flags(pc.equal(pc.fill_null(pc.binary_length(raw["image_bytes"]), 0), 0))
    for name in ("title", "description", "attributes"):
        empty &= _blank(raw[name])
    return empty


def _blank(values: pa.Array) -> NDArray[np.bool_]:
    return _flags(pc.equal(pc.fill_null(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0), 0))


def _flags(values: pa.Array) -> NDArray[np.bool_]:
    """(B,) bool; null is false."""
    flags: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return flags
