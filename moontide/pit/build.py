"""The join: labels beside what was known when each was given, from arrays to the tables of a training set.

A pure function of its arguments, so that one process and a cluster give the same rows. B labels, R requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide import schemas
from moontide.errors import SpaceMismatch
from moontide.pit import aggregates, arrays, item_columns, layout, spans
from moontide.pit.aggregates import Activity
from moontide.pit.ids import Ids
from moontide.pit.item_columns import ItemColumns
from moontide.pit.layout import Columns
from moontide.pit.versions import VersionLog
from moontide.simtier import SimTierSpec, tier_counts_at

Ints = NDArray[np.int64]
#: Behaviours of one piece of the output, at most, unless one request alone has more.
BEHAVIOURS: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What labels are joined with.

    Args:
        length: L.
        ids: users with a behaviour, and items of labels and behaviours; their rows are what every array means.
        activity: behaviours.
        catalog: scalars of the items as of any time; None: none.
        vectors: the embedding log and the spec of the counts, in its space; None: vectors and counts are left out.

    Raises:
        SpaceMismatch: a spec of another space than the log's.
    """

    length: int
    ids: tuple[Ids, Ids]
    activity: Activity
    catalog: ItemColumns | None = None
    vectors: tuple[VersionLog, SimTierSpec] | None = None

    def __post_init__(self) -> None:
        if self.vectors is not None and self.vectors[0].space.id != self.vectors[1].space_id:
            raise SpaceMismatch(
                f"training set: expected a log of space {self.vectors[1].space_id}, got {self.vectors[0].space.id}"
            )

    @property
    def users(self) -> Ids:
        """Users with a behaviour."""
        return self.ids[0]

    @property
    def items(self) -> Ids:
        """Items of labels and behaviours."""
        return self.ids[1]

    def columns(self, labels: tuple[str, ...]) -> Columns:
        """Columns of the impressions; raises as `Columns`."""
        catalog = () if self.catalog is None else item_columns.SCALARS
        tiers = 0 if self.vectors is None else self.vectors[1].tiers
        return Columns(tiers, labels, (*aggregates.SCALARS, *catalog))

    def save(self, folder: Path) -> None:
        """Write everything but the log, which is kept where it was built: ``folder/versions``."""
        self.activity.save(folder / "activity")
        if self.catalog is not None:
            self.catalog.save(folder / "catalog")
        spec = None if self.vectors is None else asdict(self.vectors[1])
        meta = {"length": self.length, "spec": spec, "catalog": self.catalog is not None}
        arrays.save_arrays(folder, {"users": self.users.array, "items": self.items.array}, meta)

    @classmethod
    def open(cls, folder: Path) -> Sources:
        """What `save` wrote, read-only and mapped into memory.

        Raises:
            Misconfigured: nothing there.
        """
        found, meta = arrays.open_arrays(folder)
        spec = None if meta["spec"] is None else SimTierSpec(**meta["spec"])
        return cls(
            meta["length"],
            (Ids(found["users"]), Ids(found["items"])),
            Activity.open(folder / "activity"),
            ItemColumns.open(folder / "catalog") if meta["catalog"] else None,
            None if spec is None else (VersionLog.open(folder / "versions"), spec),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """B labels in input order. A request is a run of them with one user and time.

    Attributes:
        row: (B,) int64 `label_row`, rising.
        user_id: B strings.
        user, item: (B,) int64 rows of the sources' users (-1: no behaviour) and items.
        time: (B,) int64 microseconds.
        first: (B,) bool, where a request begins; the first label is one.
        values: ``label`` and the further labels, (B,) float32 each, in column order; NaN: null.
    """

    row: Ints
    user_id: pa.Array
    user: Ints
    item: Ints
    time: Ints
    first: NDArray[np.bool_]
    values: Mapping[str, NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.row)


class Joined(NamedTuple):
    """Whole requests: tables in `layout.REQUESTS_SCHEMA` and in the schema of `Sources.columns`."""

    requests: pa.Table
    impressions: pa.Table


class _Requests(NamedTuple):
    """R requests: first label of each and (R + 1,) bounds, and their slice of the behaviours."""

    bounds: Ints
    begin: Ints
    stop: Ints
    known: Ints


def build(labels: Labels, sources: Sources) -> Iterator[Joined]:
    """Join labels with everything that was known strictly before each; every label is in exactly one piece, in order.

    A behaviour at the very time of the label is not known yet; a vector that became valid at that time is.
    """
    if not len(labels):
        return
    lines = sources.activity.by_user
    starts = np.flatnonzero(labels.first)
    user, time = labels.user[starts], labels.time[starts]
    first, stop = lines.first(user), lines.before(user, time)
    begin = np.maximum(first, stop - sources.length)
    every = _Requests(np.append(starts, len(labels)), begin, stop, stop - first)
    whole = np.concatenate([np.zeros(1, np.int64), np.cumsum(stop - begin)])
    at = 0
    while at < len(starts):
        end = max(int(np.searchsorted(whole, whole[at] + BEHAVIOURS, side="right")) - 1, at + 1)
        yield _piece(labels, sources, _slice(every, at, end))
        at = end


def _slice(every: _Requests, at: int, end: int) -> _Requests:
    return _Requests(every.bounds[at : end + 1], every.begin[at:end], every.stop[at:end], every.known[at:end])


def _piece(labels: Labels, sources: Sources, requests: _Requests) -> Joined:
    lines, bounds = sources.activity.by_user, requests.bounds
    rows = slice(int(bounds[0]), int(bounds[-1]))
    sizes = np.diff(bounds)
    behaviours, offsets = spans.indices(requests.begin, requests.stop)
    history, time = lines.values[behaviours], labels.time[bounds[:-1]]
    item, label_time = labels.item[rows], labels.time[rows]
    vector, seen = np.full(len(item), -1, np.int64), np.full(len(history), -1, np.int64)
    made: dict[str, NDArray[np.generic]] = {"missing": np.repeat(np.diff(offsets), sizes)}
    if sources.vectors is not None:
        log, spec = sources.vectors
        vector, seen = log.at(item, label_time), log.at(history, np.repeat(time, np.diff(offsets)))
        found = tier_counts_at(
            log.vectors, vector, bounds - bounds[0], seen, offsets, spec, candidate_keys=item, history_keys=history
        )
        made |= {"missing": found.missing, layout.COUNTS: found.counts}
    made |= {"label_row": labels.row[rows], "request": np.repeat(labels.row[bounds[:-1]], sizes), "item": item, "vector": vector}
    made |= {name: values[rows] for name, values in labels.values.items()}
    made |= sources.activity.scalars(labels.user[rows], item, label_time, np.repeat(requests.known, sizes))
    if sources.catalog is not None:
        made |= sources.catalog.scalars(item, label_time)
    schema = sources.columns(tuple(labels.values)[1:]).schema()
    impressions = pa.table([_column(made[field.name], field) for field in schema], schema=schema)
    lists = {"history_items": history, "history_vectors": seen, "history_times": lines.times[behaviours]}
    return Joined(_request_table(labels, requests, time, lists, offsets), impressions)


def _request_table(labels: Labels, requests: _Requests, time: Ints, lists: Mapping[str, Ints], offsets: Ints) -> pa.Table:
    starts = requests.bounds[:-1]
    columns = {
        "request": pa.array(labels.row[starts]),
        "user_id": labels.user_id.take(pa.array(starts)),
        "event_timestamp": pa.array(time).cast(schemas.TIMESTAMP),
        "known": pa.array(requests.known),
    }
    ends = pa.array(offsets.astype(np.int32))
    for field in layout.REQUESTS_SCHEMA:
        if field.name in lists:
            columns[field.name] = pa.ListArray.from_arrays(ends, pa.array(lists[field.name]).cast(field.type.value_type))
    return pa.table([columns[field.name] for field in layout.REQUESTS_SCHEMA], schema=layout.REQUESTS_SCHEMA)


def _column(values: NDArray[np.generic], field: pa.Field) -> pa.Array:
    if field.name == layout.COUNTS:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=field.type)
    # NaN stands for a label that the input had not.
    return pa.array(values, from_pandas=field.nullable).cast(field.type)
