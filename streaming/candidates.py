"""Which items a user may see next: those lately shown, and the index neighbours of what the user lately touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Final

from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.sequences import BehaviourSequence
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import OnlineStore, VectorIndex
from moontide.stores.kv import Clock

SERVED: Final = 50
RECENT: Final = 5
NEIGHBOURS: Final = 20
TTL_US: Final = 60_000_000
CACHED: Final = 50_000
#: Items asked about in one call: milvus-lite takes some 1.5 ms for each, and item events wait meanwhile.
ASKED: Final = 256
#: After a failure the index is left alone this long: each try may cost its whole time limit.
PAUSE_US: Final = 5_000_000


class Neighbours:
    """Nearest items, remembered for a minute.

    Args:
        store: where the vectors asked with are current.
        index: searched once per call, for all items that are not remembered.
        clock: microseconds UTC.

    Attributes:
        failures: how often the index did not answer; the neighbours were left out then.
        left_out: items beyond the first `ASKED` unknown ones of a call, whose neighbours were left out.
    """

    def __init__(self, store: OnlineStore, index: VectorIndex, clock: Clock) -> None:
        self.failures = 0
        self.left_out = 0
        self._store = store
        self._index = index
        self._clock = clock
        self._known: dict[tuple[EmbeddingSpace, str], tuple[int, tuple[str, ...]]] = {}
        self._paused: dict[EmbeddingSpace, int] = {}

    def of(self, space: EmbeddingSpace, items: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The nearest items of each, nearest first, itself left out; an item is missing where they cannot be told now.

        The first items matter most: they are asked about first.

        Raises:
            SpaceMismatch: the index or the store holds another space's vectors.
            Transient: the store is broken (the index may be).
        """
        now, found, unknown = self._clock(), dict[str, tuple[str, ...]](), list[str]()
        for item in dict.fromkeys(items):
            until, near = self._known.get((space, item), (0, ()))
            if until > now:
                found[item] = near
            else:
                unknown.append(item)
        if unknown and self._paused.get(space, 0) <= now:
            self.left_out += len(unknown[ASKED:])
            found |= self._search(space, unknown[:ASKED], now)
        return found

    def _search(self, space: EmbeddingSpace, items: Sequence[str], now: int) -> dict[str, tuple[str, ...]]:
        vectors = self._store.read_embeddings(space, items)
        vectors = vectors.take(vectors.present)
        if not len(vectors):
            return {}
        try:
            hits = self._index.search(space, vectors, NEIGHBOURS + 1).ids
        except SpaceMismatch:
            raise
        except (Transient, Misconfigured):
            self.failures += 1
            self._paused[space] = now + PAUSE_US
            return {}
        asked = vectors.ids or ()
        found = {a: tuple(i for i in ids if i != a)[:NEIGHBOURS] for a, ids in zip(asked, hits, strict=True)}
        for item, near in found.items():
            self._known.pop((space, item), None)
            self._known[space, item] = (now + TTL_US, near)
        for key in list(self._known)[: max(0, len(self._known) - CACHED)]:
            del self._known[key]
        return found


def recent_items(sequence: BehaviourSequence, most: int) -> list[str]:
    """The last distinct items of a sequence, newest first."""
    return list(dict.fromkeys(reversed(sequence.item_ids)))[:most]


def candidate_set(served: Sequence[str], near: Iterable[Sequence[str]], *, most: int) -> list[str]:
    """At most `most` distinct items: those served, then the nearest of each recent item, then the second nearest, and so on."""
    return list(dict.fromkeys(chain(served, by_rank(near))))[:most]


def by_rank(lists: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first of each list, then the second of each, and so on."""
    return (item for rank in zip_longest(*lists) for item in rank if item is not None)


def chunks(candidates: Mapping[str, Sequence[str]], most: int) -> Iterator[dict[str, Sequence[str]]]:
    """The same pairs in order, at most `most` together; a user with more is in several."""
    waiting: dict[str, Sequence[str]] = {}
    room = most
    for user, items in candidates.items():
        start = 0
        while start < len(items):
            if not room:
                yield waiting
                waiting, room = {}, most
            waiting[user] = items[start : start + room]
            start += len(waiting[user])
            room -= len(waiting[user])
    if waiting:
        yield waiting
