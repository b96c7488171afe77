"""Replay by time: what a point-in-time join gives for the moment of a request, against what was served. No error: skew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._audit_log import Kind, Requests
from jobs._audit_offline import OfflineItems
from jobs._audit_report import Skew
from jobs._audit_versions import unequal
from moontide.pit.ids import Ids
from moontide.pit.timeline import Timeline
from moontide.pit.versions import VersionLog
from moontide.request_log import vector_digests
from moontide.simtier import SimTierSpec, tier_counts_at

Ints = NDArray[np.int64]
SEQUENCE_COLUMNS: Final = ("user_id", "item_ids", "actions", "times")
#: Between item and action: below every character of an id, so that pairs sort as (item, action).
_BETWEEN: Final = "\x00"


class Behaviours:
    """Every behaviour of wanted users that an offline sequence table has, by time.

    Attributes:
        pairs: (item, action) joined, sorted.
    """

    def __init__(self, users: Ids, pairs: Ids, timeline: Timeline) -> None:
        self._users, self.pairs, self._timeline = users, pairs, timeline

    @classmethod
    def build(cls, rows: Iterable[pa.Table], users: Ids) -> Behaviours:
        """Read tables with `SEQUENCE_COLUMNS`; memory grows with the behaviours of wanted users."""
        owners, times, texts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [pa.array([], pa.string())]
        for table in rows:
            user = users.rows(table["user_id"])
            wanted, user = table.filter(pa.array(user >= 0)), user[user >= 0]
            if not len(user):
                continue
            lists = {name: wanted[name].combine_chunks() for name in SEQUENCE_COLUMNS[1:]}
            owners.append(np.repeat(user, pc.list_value_length(lists["times"]).to_numpy()))
            times.append(lists["times"].flatten().to_numpy())
            texts.append(pc.binary_join_element_wise(lists["item_ids"].flatten(), lists["actions"].flatten(), _BETWEEN))
        pairs = Ids.of(texts)
        owner, time = np.concatenate(owners), np.concatenate(times)
        pair = pairs.rows(pa.chunked_array(texts))
        order = np.lexsort((pair, time, owner))
        kept = np.ones(len(order), bool)
        kept[1:] = np.any([a[order][1:] != a[order][:-1] for a in (owner, time, pair)], axis=0)
        order = order[kept]
        return cls(users, pairs, Timeline(owner[order], time[order], pair[order]))

    @property
    def item_ids(self) -> pa.Array:
        """The distinct items."""
        return pc.unique(_split(self.pairs.strings(), 0))

    def before(self, users: pa.Array, times: Ints, length: int) -> tuple[Ints, Ints, Ints]:
        """Offsets (N + 1,), pairs (H,) and times (H,) of each user's last `length` behaviours strictly before a time."""
        user = self._users.rows(users)
        stop = self._timeline.before(user, times)
        start = np.maximum(stop - length, np.minimum(self._timeline.first(user), stop))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(stop - start)])
        at = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
        return offsets, self._timeline.values[at], self._timeline.times[at]


def _split(pairs: pa.Array, part: int) -> pa.Array:
    return pc.list_element(pc.split_pattern(pairs, _BETWEEN), part)


@dataclass(frozen=True, slots=True, eq=False)
class TimeReplay:
    """What was known when: vectors of one space, the catalog, behaviours; `items` are the ids of log and behaviours."""

    items: Ids
    vectors: VersionLog
    catalog: OfflineItems
    behaviours: Behaviours

    def compare(self, kind: Kind, requests: Requests, spec: SimTierSpec, skew: Skew) -> None:
        """Count the values of N requests that a replay by time gives otherwise."""
        times = requests.served_at[requests.owner(requests.cand_offsets)]
        candidates = self.items.rows(requests.item_ids)
        at = self.vectors.at(candidates, times)
        self._embeddings(requests, at, times, skew)
        offsets, pairs, when = self.behaviours.before(requests.users, requests.served_at, spec.length)
        self._sequences(requests, offsets, pairs, when, skew)
        history = self.items.rows(_split(self.behaviours.pairs.strings(), 0))[pairs] if len(pairs) else pairs
        seen = self.vectors.at(history, np.repeat(requests.served_at, np.diff(offsets)))
        made = tier_counts_at(
            self.vectors.vectors, at, requests.cand_offsets, seen, offsets, spec, candidate_keys=candidates, history_keys=history
        )
        counts = requests.counts.reshape(len(at), spec.tiers)
        skew.add("counts", (counts != made.counts).any(axis=1))
        skew.add("missing", requests.missing != made.missing)
        if kind.fields:
            self._fields(kind, requests, times, skew)

    def _embeddings(self, requests: Requests, at: Ints, times: Ints, skew: Skew) -> None:
        known = at >= 0
        found = self.vectors.vectors.take(at[known])
        digests = iter(vector_digests(found.codes, found.scale, found.present))
        made = [next(digests) if there else None for there in known.tolist()]
        differs = np.array([a != b for a, b in zip(requests.digests, made, strict=True)], bool)
        replayed = np.where(known, np.append(self.vectors.event_timestamp, 0)[at], times)
        skew.add("embedding", differs, replayed - _times(requests.versions, times, requests.present))

    def _sequences(self, requests: Requests, offsets: Ints, pairs: Ints, when: Ints, skew: Skew) -> None:
        logged = pc.binary_join_element_wise(requests.history_ids, requests.history_actions, _BETWEEN)
        mine = self.behaviours.pairs.rows(logged)
        differs, ages = np.zeros(len(requests), bool), np.zeros(len(requests), np.int64)
        for n in range(len(requests)):
            a, b = slice(*requests.hist_offsets[n : n + 2]), slice(*offsets[n : n + 2])
            same = np.array_equal(mine[a], pairs[b]) and np.array_equal(requests.history_times[a], when[b])
            differs[n] = not same or bool((mine[a] < 0).any())
            served_at = int(requests.served_at[n])
            ages[n] = _last(when[b], served_at) - _last(requests.history_times[a], served_at)
        skew.add("sequence", differs, ages)

    def _fields(self, kind: Kind, requests: Requests, times: Ints, skew: Skew) -> None:
        rows = self.catalog.at(requests.item_ids, times)
        event = self.catalog.table["event_timestamp"].cast(pa.int64()).to_numpy()
        replayed = np.where(rows >= 0, np.append(event, 0)[rows], times)
        served = _times(requests.item_versions, times, requests.item_versions.is_valid().to_numpy(zero_copy_only=False))
        for name in kind.fields:
            skew.add(name, unequal(requests.field(name), self.catalog.values(name, rows)), replayed - served)


def _times(versions: pa.StructArray, served_at: Ints, there: NDArray[np.bool_]) -> Ints:
    """(B,) event time of each version; the moment of the request where nothing was read."""
    event = pc.struct_field(versions, "event_timestamp").cast(pa.int64())
    found: Ints = np.where(there, pc.fill_null(event, 0).to_numpy(zero_copy_only=False), served_at)
    return found


def _last(times: Ints, served_at: int) -> int:
    """The newest time; the moment of the request where there is none."""
    return int(times[-1]) if len(times) else served_at
