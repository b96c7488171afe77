"""A request log in pieces: batches, requests of one kind as flat arrays, and the ids it names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._tables import InputTable, column, open_table, read_unit
from moontide.errors import Misconfigured
from moontide.pit.ids import Ids
from moontide.request_log import ITEM_FIELDS, REQUEST_LOG
from moontide.sequences import Behaviour, BehaviourSequence

Ints = NDArray[np.int64]
_BATCH: Final = 256
_KIND: Final = ("service", "space", "encoder_digest", "simtier")


class Kind(NamedTuple):
    """What requests have in common that are audited together."""

    service: str
    space: str
    encoder_digest: str
    simtier: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RequestLog:
    """Checked files of a log.

    Attributes:
        table: the files.
        services: only their requests; empty: all.
    """

    table: InputTable
    services: tuple[str, ...]

    @classmethod
    def open(cls, path: str, services: Sequence[str]) -> RequestLog:
        """Look at a log without reading a row.

        Raises:
            Misconfigured: nothing there, no Parquet, or other columns than a log's.
        """
        required = tuple(name for name in REQUEST_LOG.names if name not in ITEM_FIELDS.values())
        return cls(open_table(path, REQUEST_LOG, required, what="request log"), tuple(services))

    def batches(self) -> Iterator[pa.Table]:
        """At most 256 requests a time, in order, in the types of `REQUEST_LOG`.

        Raises:
            Misconfigured: a null where there is to be none, damaged pages, or a type that cannot be converted.
        """
        for unit in self.table.units:
            for batch in read_unit(self.table, unit, batch_rows=_BATCH):
                rows = pa.table([column(batch, field) for field in REQUEST_LOG], schema=REQUEST_LOG)
                nulls = [f.name for f in REQUEST_LOG if not f.nullable and rows[f.name].null_count]
                if nulls:
                    raise Misconfigured(f"request log {unit.path}: expected a value in every row of {nulls}, got null")
                if self.services:
                    rows = rows.filter(pc.is_in(rows["service"], pa.array(self.services)))
                if rows.num_rows:
                    yield rows

    def kinds(self) -> Iterator[tuple[Kind, pa.Table]]:
        """The same, split by kind."""
        for rows in self.batches():
            # A null among the names is no field's name either.
            names = pc.fill_null(pc.binary_join(rows["fields"].combine_chunks(), ","), "null")
            keyed = rows.append_column("__fields", names)
            kinds = keyed.select([*_KIND, "__fields"]).group_by([*_KIND, "__fields"], use_threads=False).aggregate([])
            for kind in kinds.to_pylist():
                mask = pa.array(np.ones(rows.num_rows, bool))
                for name, value in kind.items():
                    mask = pc.and_(mask, pc.equal(keyed[name].combine_chunks(), value))
                fields = tuple(filter(None, kind.pop("__fields").split(",")))
                yield Kind(**kind, fields=fields), rows.filter(mask)

    def named(self) -> tuple[Ids, Ids]:
        """The items and users of the whole log; memory grows with the distinct ones alone."""
        items, users = pa.array([], pa.string()), pa.array([], pa.string())
        for rows in self.batches():
            flat = [rows[name].combine_chunks().flatten() for name in ("item_ids", "sequence_item_ids")]
            items = pc.unique(pa.concat_arrays([items, *flat]))
            users = pc.unique(pa.concat_arrays([users, rows["user_id"].combine_chunks()]))
        return Ids.of([items]), Ids.of([users])


class Requests:
    """N requests of one kind: R candidates and H behaviours, each end to end.

    Args:
        rows: of `REQUEST_LOG`, `whole`.

    Attributes:
        ids, users: N strings each.
        served_at: (N,) int64 microseconds.
        sequence_version: (N,) int64.
        cand_offsets, hist_offsets: (N + 1,) int64.
        item_ids, versions, digests, item_versions: R values.
        history_ids, history_actions, history_times, history_versions: H values, the newest of each sequence.
        counts: R x N int32, flat; missing: (R,) int32; present: (R,) bool.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._rows = {name: rows[name].combine_chunks() for name in rows.column_names}
        self.ids: list[str] = rows["request_id"].to_pylist()
        self.users = self._rows["user_id"]
        self.served_at: Ints = rows["served_at"].cast(pa.int64()).to_numpy()
        self.sequence_version: Ints = rows["sequence_version"].to_numpy()
        self.cand_offsets, self.hist_offsets = self._offsets("item_ids"), self._offsets("history_versions")
        self.item_ids, self.versions = self._flat("item_ids"), self._flat("versions")
        self.digests: list[bytes | None] = self._flat("vector_digests").to_pylist()
        self.present: NDArray[np.bool_] = self._flat("embedding_present").to_numpy(zero_copy_only=False)
        self.counts: NDArray[np.int32] = self._flat("counts").to_numpy()
        self.missing: NDArray[np.int32] = self._flat("missing").to_numpy()
        self.item_versions = self._flat("item_versions")
        newest = pa.array(self._newest())
        self.history_ids = self._flat("sequence_item_ids").take(newest)
        self.history_actions = self._flat("sequence_actions").take(newest)
        self.history_times: Ints = self._flat("sequence_times").take(newest).to_numpy()
        self.history_versions = self._flat("history_versions")

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def whole(rows: pa.Table, fields: Sequence[str], tiers: int, length: int) -> NDArray[np.bool_]:
        """(N,) bool: lists whose lengths fit each other, the number of tiers and the spec's length; every field is one there is.

        Args:
            rows: of `REQUEST_LOG`, all of one kind.
            fields: the kind's.
            tiers: N of the spec.
            length: L of the spec.
        """
        if not set(fields) <= set(ITEM_FIELDS):
            return np.zeros(rows.num_rows, bool)
        size = {f.name: pc.list_value_length(rows[f.name]).to_numpy() for f in REQUEST_LOG if pa.types.is_list(f.type)}
        count, kept = size["item_ids"], size["sequence_item_ids"]
        good = (size["counts"] == count * tiers) & (size["history_versions"] == np.minimum(kept, length))
        for name in ("versions", "embedding_present", "vector_digests", "missing", *(ITEM_FIELDS[field] for field in fields)):
            good &= size[name] == count
        for name in ("sequence_actions", "sequence_times"):
            good &= size[name] == kept
        good &= size["item_versions"] == (count if fields else 0)
        found: NDArray[np.bool_] = good
        return found

    def owner(self, offsets: Ints) -> Ints:
        """The request of each of R candidates, or of each of H behaviours."""
        return np.repeat(np.arange(len(self)), np.diff(offsets))

    def field(self, name: str) -> pa.Array:
        """(R,) logged values of an item field that the service serves."""
        return self._flat(ITEM_FIELDS[name])

    def sequences(self) -> Iterator[BehaviourSequence]:
        """The whole sequence of each request."""
        columns = [self._rows[f"sequence_{name}"].to_pylist() for name in ("times", "item_ids", "actions")]
        for times, items, actions in zip(*columns, strict=True):
            yield BehaviourSequence(tuple(map(Behaviour, times, items, actions)))

    def _flat(self, name: str) -> Any:
        return self._rows[name].flatten()

    def _offsets(self, name: str) -> Ints:
        sizes = pc.list_value_length(self._rows[name]).to_numpy()
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])

    def _newest(self) -> Ints:
        ends = self._offsets("sequence_item_ids")[1:]
        sizes = np.diff(self.hist_offsets)
        return np.arange(self.hist_offsets[-1]) + np.repeat(ends - self.hist_offsets[1:], sizes)
