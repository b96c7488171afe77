"""Replay by version: every value of a logged request made again from the very rows it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs._audit_log import Kind, Requests
from jobs._audit_offline import OfflineItems, OfflineVectors
from jobs._audit_report import Difference, Tally, of_candidates, of_history
from moontide.pit.ids import Ids
from moontide.request_log import vector_digests
from moontide.sequences import BehaviourSequence
from moontide.simtier import SimTierSpec, tier_counts_at

LOST = "version_not_offline"
DIFFERS = "value_differs"
SEQUENCE = "sequence_hash_differs"
_NOTHING = BehaviourSequence().version


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """The rows of one space, the catalog, and which sequences the offline table has.

    Attributes:
        items: ids of the log.
        vectors: of the space.
        catalog: item features.
        sequences: versions of the offline sequences, rising.
    """

    items: Ids
    vectors: OfflineVectors
    catalog: OfflineItems
    sequences: NDArray[np.int64]

    def compare(self, kind: Kind, requests: Requests, spec: SimTierSpec, tally: Tally) -> None:
        """Count every value of N requests that cannot be made again bit for bit."""
        found = vectors_at(self, requests)
        for rows, make, feature in (
            (found.candidates, of_candidates, "embedding"),
            (found.history, of_history, "history"),
        ):
            for difference in make(requests, np.flatnonzero(rows == -1).tolist(), feature, LOST):
                tally.add(difference)
        self._embeddings(requests, found, tally)
        self._tiers(requests, found, spec, tally)
        if kind.fields:
            self._fields(kind, requests, tally)
        self._sequences(requests, tally)

    def _embeddings(self, requests: Requests, found: Rows, tally: Tally) -> None:
        table, rows = self.vectors.vectors, found.candidates
        distinct, back = np.unique(np.maximum(rows, 0), return_inverse=True)
        some = table.take(distinct) if len(table) else table
        made = vector_digests(some.codes, some.scale, some.present) if len(table) else [None] * len(distinct)
        rebuilt = [made[n] if row >= 0 else None for n, row in zip(back.tolist(), rows.tolist(), strict=True)]
        there = np.array([digest is not None for digest in rebuilt], bool)
        known = rows != -1
        wrong = known & np.array([a != b for a, b in zip(requests.digests, rebuilt, strict=True)], bool)
        _count(tally, known)
        _list(
            tally, of_candidates(requests, np.flatnonzero(wrong).tolist(), "embedding", DIFFERS), wrong, requests.digests, rebuilt
        )
        odd = known & ~wrong & (requests.present != there)
        _list(tally, of_candidates(requests, np.flatnonzero(odd).tolist(), "embedding_present", DIFFERS), odd,
              requests.present.tolist(), there.tolist())  # fmt: skip

    def _tiers(self, requests: Requests, found: Rows, spec: SimTierSpec, tally: Tally) -> None:
        made = tier_counts_at(
            self.vectors.vectors,
            np.maximum(found.candidates, -1),
            requests.cand_offsets,
            np.maximum(found.history, -1),
            requests.hist_offsets,
            spec,
            candidate_keys=self.items.rows(requests.item_ids),
            history_keys=self.items.rows(requests.history_ids),
        )
        torn = np.zeros(len(requests), bool)
        torn[requests.owner(requests.hist_offsets)[found.history == -1]] = True
        known = (found.candidates != -1) & ~torn[requests.owner(requests.cand_offsets)]
        counts = requests.counts.reshape(len(known), spec.tiers)
        for feature, logged, rebuilt in (("counts", counts, made.counts), ("missing", requests.missing, made.missing)):
            wrong = known & (logged != rebuilt).reshape(len(known), -1).any(axis=1)
            _count(tally, known)
            listed = of_candidates(requests, np.flatnonzero(wrong).tolist(), feature, DIFFERS)
            _list(tally, listed, wrong, logged.tolist(), rebuilt.tolist())

    def _fields(self, kind: Kind, requests: Requests, tally: Tally) -> None:
        rows = self.catalog.rows(requests.item_ids, requests.item_versions)
        for difference in of_candidates(requests, np.flatnonzero(rows == -1).tolist(), "item_features", LOST):
            tally.add(difference)
        known = rows != -1
        for name in kind.fields:
            logged, rebuilt = requests.field(name), self.catalog.values(name, rows)
            wrong = known & unequal(logged, rebuilt)
            _count(tally, known)
            listed = of_candidates(requests, np.flatnonzero(wrong).tolist(), name, DIFFERS)
            _list(tally, listed, wrong, logged.to_pylist(), rebuilt.to_pylist())

    def _sequences(self, requests: Requests, tally: Tally) -> None:
        tally.compared += len(requests)
        for at, (logged, sequence) in enumerate(zip(requests.sequence_version.tolist(), requests.sequences(), strict=True)):
            if sequence.version != logged:
                user = requests.users[at].as_py()
                tally.add(Difference(requests.ids[at], user, None, "sequence", SEQUENCE, str(logged), str(sequence.version)))
        offline = np.isin(requests.sequence_version, self.sequences) | (requests.sequence_version == _NOTHING)
        tally.notes["sequences_in_offline_table"] += int(offline.sum())
        tally.notes["sequences_between_offline_rows"] += int((~offline).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of the vectors: (R,) of the candidates, (H,) of the history; -1 lost, -2 never read."""

    candidates: NDArray[np.int64]
    history: NDArray[np.int64]


def vectors_at(replay: Replay, requests: Requests) -> Rows:
    """Where the logged versions lie."""
    find = replay.vectors.rows
    return Rows(find(requests.item_ids, requests.versions), find(requests.history_ids, requests.history_versions))


def unequal(left: pa.Array, right: pa.Array) -> NDArray[np.bool_]:
    """(B,) bool: other bits, or a null against a value."""
    if pa.types.is_float32(left.type):
        left, right = left.view(pa.int32()), right.view(pa.int32())
    same = pc.fill_null(pc.equal(left, right), False)
    both = pc.and_(pc.is_null(left), pc.is_null(right))
    found: NDArray[np.bool_] = pc.invert(pc.or_(same, both)).to_numpy(zero_copy_only=False)
    return found


def _count(tally: Tally, known: NDArray[np.bool_]) -> None:
    tally.compared += int(known.sum())
    tally.not_compared += int((~known).sum())


def _list(
    tally: Tally, listed: Sequence[Difference], wrong: NDArray[np.bool_], logged: Sequence[Any], rebuilt: Sequence[Any]
) -> None:
    for difference, at in zip(listed, np.flatnonzero(wrong).tolist(), strict=True):
        tally.add(replace(difference, logged=_plain(logged[at]), rebuilt=_plain(rebuilt[at])))


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
