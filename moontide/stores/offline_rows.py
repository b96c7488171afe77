"""Rows of the offline tables as their files hold them: schema, stamp, and the date each belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names
from moontide.errors import Misconfigured, Poison, SpaceMismatch
from moontide.stores.offline_files import FORMAT, FORMAT_KEY
from moontide.views import ViewKind, ViewSpec

_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = 86_400_000_000
_ENCODER_KEY: Final = b"moontide.encoder"


def stamped(view: ViewSpec) -> pa.Schema:
    """The schema of a view's files: ``view.table`` with the format version."""
    encoder = {} if view.space is None else {_ENCODER_KEY: view.space.encoder_digest.encode()}
    return view.table.with_metadata({FORMAT_KEY: FORMAT, b"moontide.view": view.name.encode(), **encoder})


def conform(view: ViewSpec, rows: pa.Table) -> pa.Table:
    """`rows` with exactly the columns, types and metadata of `stamped`; raises as `OfflineTables.append`."""
    missing = [name for name in view.table.names if name not in rows.column_names]
    if missing:
        raise Misconfigured(f"{view.name}: expected columns {view.table.names}, got {rows.column_names}; add {missing}")
    rows = rows.select(view.table.names)
    nulls = [f.name for f in view.table if not f.nullable and rows[f.name].null_count]
    if nulls:
        raise Poison(f"{view.name}: expected a value in every row of {nulls}, got nulls; reject those rows")
    try:
        rows = rows.cast(stamped(view))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Misconfigured(f"{view.name}: expected types {view.table.types}, got {rows.schema.types}: {error}") from error
    require_space(view, rows, view.name)
    return rows


def space_columns(view: ViewSpec) -> list[str]:
    """What `require_space` looks at."""
    return ["space"] if view.kind is ViewKind.EMBEDDING else []


def require_space(view: ViewSpec, rows: pa.Table, where: str) -> None:
    """Refuse rows of another space than the view's with `SpaceMismatch`; rows of other kinds of views pass."""
    if not space_columns(view) or not rows.num_rows:
        return
    space = view.name.removeprefix(names.EMBEDDING_VIEW_PREFIX)
    others = [s for s in pc.unique(rows["space"]).to_pylist() if s != space]
    if others:
        raise SpaceMismatch(f"{where}: expected rows of space {space}, got {others}; write each space to its own view")


def require_encoder(view: ViewSpec, found: Mapping[bytes, bytes], path: str) -> None:
    """Refuse a file (its metadata: `found`) of another encoder's vectors with `SpaceMismatch`."""
    expected = stamped(view).metadata.get(_ENCODER_KEY)
    got = found.get(_ENCODER_KEY, expected)
    if got != expected:
        raise SpaceMismatch(
            f"{path}: expected vectors of encoder {expected!r}, got {got!r}; give the new encoder a space version of its own"
        )


def by_date(rows: pa.Table) -> list[tuple[str, NDArray[np.int64] | None]]:
    """(day, row numbers) in day order; row numbers None where all rows are of that day."""
    days = rows[names.EVENT_TIMESTAMP].cast(pa.int64()).to_numpy() // _DAY
    found = np.unique(days)
    single = len(found) == 1
    return [((_EPOCH + timedelta(days=int(d))).isoformat(), None if single else np.flatnonzero(days == d)) for d in found]
