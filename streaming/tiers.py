"""Tiers of a user's candidate set, computed ahead when a behaviour arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from moontide import names
from moontide.features import compute_tiers
from moontide.live import LiveSpaces
from moontide.settings import Settings
from moontide.simtier import SimTierSpec
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore, Status, VectorIndex
from moontide.stores.kv import Clock
from moontide.views import embedding_view, simtier_view, user_sequence
from streaming.candidates import RECENT, SERVED, Neighbours, by_rank, candidate_set, chunks, recent_items
from streaming.message import Effects

#: Pairs of one computation: bounds its memory.
PAIRS: Final = 4_000


class CandidateTiers:
    """Rows of every SimTier view of a site for given users. Reads the store and the index, writes nothing.

    Args:
        store: sequences and vectors.
        index: neighbours; where it fails, only items lately served are candidates.
        live: the SimTier specs.
        settings: size of a candidate set.
        clock: microseconds UTC.

    Raises:
        Misconfigured: a spec's space is not live.
    """

    def __init__(self, store: OnlineStore, index: VectorIndex, live: LiveSpaces, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._specs = [(spec, live.space(spec.space_id)) for spec in live.simtiers]
        self._most = settings.stream_candidates
        self._clock = clock
        self._neighbours = Neighbours(store, index, clock)
        self._owed: dict[str, None] = {}

    @property
    def index_failures(self) -> int:
        """How often the index did not answer."""
        return self._neighbours.failures

    @property
    def neighbours_left_out(self) -> int:
        """Items whose neighbours were left out because a call asked about too many."""
        return self._neighbours.left_out

    def recompute(self, users: Sequence[str]) -> Effects:
        """Tiers of the candidate sets of `users`, from the current records; users that a failure left out come along.

        Raises:
            SpaceMismatch: the store or the index holds another space's vectors.
            Transient: the store is broken.
        """
        if not self._most:
            return Effects()
        self._owed.update(dict.fromkeys(users))
        wanted, effects = list(self._owed), Effects()
        for spec, space in self._specs if wanted else ():
            rows = self._rows(spec, space, wanted)
            if rows:
                effects.rows.append((simtier_view(spec), pa.concat_tables(rows).combine_chunks()))
        self._owed.clear()
        return effects

    def _rows(self, spec: SimTierSpec, space: EmbeddingSpace, users: Sequence[str]) -> list[pa.Table]:
        candidates = self._candidates(spec, space, users)
        return [compute_tiers(self._store, space, spec, part, clock=self._clock) for part in chunks(candidates, PAIRS)]

    def _candidates(self, spec: SimTierSpec, space: EmbeddingSpace, users: Sequence[str]) -> dict[str, list[str]]:
        served = [recent_items(s, SERVED) for s in self._store.read_sequences(user_sequence(names.USER_SERVED), users)]
        recent = [recent_items(s, RECENT) for s in self._store.read_sequences(user_sequence(spec.sequence), users)]
        near = self._neighbours.of(space, by_rank(recent))
        shown = sorted({item for items in served for item in items})
        found = sorted({item for items in near.values() for item in items})
        dropped = self._of_status(space, shown, Status.DELETED) | self._of_status(space, found, Status.DELETED, Status.ABSENT)
        return {
            user: candidate_set(
                [item for item in seen if item not in dropped],
                [[n for n in near.get(item, ()) if n not in dropped] for item in items],
                most=self._most,
            )
            for user, seen, items in zip(users, served, recent, strict=True)
        }

    def _of_status(self, space: EmbeddingSpace, items: Sequence[str], *wanted: Status) -> set[str]:
        status = self._store.heads(embedding_view(space), items).status.tolist()
        return {item for item, now in zip(items, status, strict=True) if now in wanted}
