"""What becomes of item events against where their items stand: pure, over columns.

I items and E events of one batch; a *wave* is W events of W different items, planned together. An item's events are planned in
the order they came, each against what the one before it left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.events import ItemEvent
from moontide.order import HASH_BYTES
from moontide.records import NO_CONTENT_HASH
from moontide.standing import Standing, Step, checked, compare, steps_before_content
from streaming.item_heads import FeatureHeads, Heads, SpaceHeads
from streaming.message import Verdict

HASH_DTYPE: Final = f"U{2 * HASH_BYTES}"
#: price, category, has_image, has_text.
Values = tuple[float | None, str | None, bool | None, bool | None]
NO_VALUES: Final[Values] = (None, None, None, None)


class Events:
    """E events in the order they came, as columns, and what is known of their content so far.

    Args:
        events: E of them.
        spaces: S live spaces.

    Attributes:
        ids: I distinct items.
        item: (E,) int64, row in `ids`.
        version, event_us: (E,) int64; the version is 0 where there is none.
        deleted, unversioned: (E,) bool.
        hashes: (S, E) content hash, of what each space reads; all zero for a delete, and until `know`.
        values: E feature values.
    """

    def __init__(self, events: Sequence[ItemEvent], spaces: int) -> None:
        count = len(events)
        numbers: dict[str, int] = {}
        self.item = np.fromiter((numbers.setdefault(e.item_id, len(numbers)) for e in events), np.int64, count)
        self.ids = list(numbers)
        self.version = np.fromiter((e.source_version or 0 for e in events), np.int64, count)
        self.unversioned = np.fromiter((e.source_version is None for e in events), np.bool_, count)
        self.event_us = np.fromiter((e.event_us for e in events), np.int64, count)
        self.deleted = np.fromiter((e.deleted for e in events), np.bool_, count)
        self.hashes = np.full((spaces, count), NO_CONTENT_HASH, HASH_DTYPE)
        self.values: list[Values] = [NO_VALUES] * count

    def know(self, row: int, hashes: Sequence[str], values: Values) -> None:
        """Note the content of one event: S hashes, and the feature values."""
        self.hashes[:, row] = hashes
        self.values[row] = values


@dataclass(frozen=True, slots=True, eq=False)
class Wave:
    """W events of W different items, against the heads of S spaces.

    Attributes:
        rows: (W,) rows of `Events`.
        items: (W,) rows of the heads.
        version: (W,) int64; a tombstone without one has its head's.
        steps: (S, W) int8 of `Step`; `STALE` in all spaces or in none.
        at: S standings against the embedding heads.
        features_at: standing against the feature heads.
        features: (W,) bool: says something new of the features.
        ghost: (W,) bool: a tombstone without version of an item nobody knows.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    version: NDArray[np.int64]
    steps: NDArray[np.int8]
    at: tuple[Standing, ...]
    features_at: Standing
    features: NDArray[np.bool_]
    ghost: NDArray[np.bool_]

    @property
    def stale(self) -> NDArray[np.bool_]:
        """(W,) bool: the item is ahead of the event."""
        found: NDArray[np.bool_] = (self.steps == Step.STALE).any(axis=0)
        return found

    @property
    def needs_content(self) -> NDArray[np.bool_]:
        """(W,) bool: nothing can be said before the content is known."""
        found: NDArray[np.bool_] = ((self.steps == Step.CHECK) | (self.steps == Step.ENCODE)).any(axis=0)
        return found

    @property
    def needs_encoding(self) -> NDArray[np.bool_]:
        """(W,) bool: some space has no vector of this content."""
        found: NDArray[np.bool_] = (self.steps == Step.ENCODE).any(axis=0)
        return found

    def verdicts(self) -> list[Verdict]:
        """W verdicts, once every needed vector is there."""
        new = ((self.steps == Step.ENCODE) | (self.steps == Step.TOMBSTONE)).any(axis=0)
        names = np.where(self.stale, Verdict.STALE.value, np.where(new, Verdict.APPLIED.value, Verdict.UNCHANGED.value))
        return [_VERDICTS[name] for name in names.tolist()]


_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}


def plan(events: Events, rows: NDArray[np.int64], heads: Heads) -> Wave:
    """The steps of W events of different items before their content is looked at."""
    items = events.item[rows]
    deleted, event_us = events.deleted[rows], events.event_us[rows]
    version, known, newest_us, gone = _newest(heads.spaces, items)
    lone = events.unversioned[rows]
    version = np.where(lone, version, events.version[rows])
    ghost = lone & ~known
    at = tuple(compare(version, event_us, h.known[items], h.version[items], h.event_us[items]) for h in heads.spaces)
    steps = np.empty((len(at), len(rows)), np.int8)
    for n, (here, head) in enumerate(zip(at, heads.spaces, strict=True)):
        steps[n] = steps_before_content(here, deleted, head.deleted[items])
        past = here.known & ~here.newer & ~here.equal
        steps[n, deleted & past & ~head.deleted[items]] = Step.STALE
    late = lone & known & (event_us <= newest_us)
    steps[:, late & ~gone] = Step.STALE
    # A tombstone at its very time may be its own, of a run that ended before it had written the other spaces.
    steps[:, ghost | (late & gone & (event_us < newest_us))] = Step.UNCHANGED
    steps[:, (steps == Step.STALE).any(axis=0)] = Step.STALE
    old = heads.features
    features_at = compare(version, event_us, old.known[items], old.version[items], old.event_us[items])
    return Wave(rows, items, version, steps, at, features_at, np.zeros(len(rows), np.bool_), ghost)


def settle(wave: Wave, events: Events, heads: Heads) -> None:
    """Finish the plan of a wave whose contents are known, in place."""
    for n, head in enumerate(heads.spaces):
        places = np.flatnonzero(wave.steps[n] == Step.CHECK)
        same = head.hashes[wave.items[places]] == events.hashes[n, wave.rows[places]]
        for place, equal in zip(places.tolist(), same.tolist(), strict=True):
            wave.steps[n, place] = checked(wave.at[n], place, same_content=equal)
    wave.steps[:, (wave.steps == Step.STALE).any(axis=0)] = Step.STALE
    wave.features[:] = _new_features(wave, events, heads.features)


def known_at(wave: Wave, places: NDArray[np.int64], events: Events, heads: Heads, now_us: int) -> NDArray[np.int64]:
    """(S, B) microseconds: when what each space reads of B events first reached us under their version, in any space."""
    items, version, hashes = wave.items[places], wave.version[places], events.hashes[:, wave.rows[places]]
    first = np.full(hashes.shape, np.iinfo(np.int64).max)
    for head in heads.spaces:
        same = head.known[items] & (head.version[items] == version) & (head.hashes[items] == hashes)
        first = np.where(same, np.minimum(first, head.known_us[items]), first)
    return np.where(first == np.iinfo(np.int64).max, now_us, first)


def _new_features(wave: Wave, events: Events, head: FeatureHeads) -> NDArray[np.bool_]:
    at = wave.features_at
    new = at.newer.copy()
    for place in np.flatnonzero(at.equal).tolist():
        row, item = int(wave.rows[place]), int(wave.items[place])
        new[place] = events.deleted[row] != head.deleted[item] or events.values[row] != head.values[item]
    new[wave.stale | wave.ghost] = False
    return new


def _newest(
    spaces: Sequence[SpaceHeads], items: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
    """Version, whether there is one, time and tombstone flag of the highest head of each item in any space."""
    count = len(items)
    version, event_us = np.zeros(count, np.int64), np.zeros(count, np.int64)
    known, gone = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for head in spaces:
        new, us = head.version[items], head.event_us[items]
        above = head.known[items] & (~known | (new > version) | ((new == version) & (us > event_us)))
        version, event_us = np.where(above, new, version), np.where(above, us, event_us)
        gone = np.where(above, head.deleted[items], gone)
        known = known | above
    return version, known, event_us, gone
