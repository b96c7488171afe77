"""Behaviour events in, new behaviours per user and verdicts out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from moontide import names, schemas
from moontide.events import BadEvent, parse_behaviour
from moontide.sequences import Behaviour
from moontide.settings import Settings
from moontide.stores.base import OnlineStore
from moontide.stores.kv import Clock
from moontide.views import ViewSpec, user_sequence
from streaming.message import Effects, Message, Point, Result, Trace, Verdict, no_trace


class _Seen(NamedTuple):
    """One event: its message, ids, and what it says."""

    message: Message
    event_id: str
    user_id: str
    behaviour: Behaviour


class BehaviourHandler:
    """What behaviour events change. Reads the store, writes nothing.

    Args:
        store: where sequences are read.
        settings: which actions say that an item was shown, behaviours kept per user, largest event.
        clock: microseconds UTC.
    """

    def __init__(self, store: OnlineStore, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._served = frozenset(settings.stream_served_actions)
        self._views = (user_sequence(), user_sequence(names.USER_SERVED))

    def handle(self, messages: Sequence[Message], *, trace: Trace = no_trace) -> Effects:
        """New behaviours to merge, and a verdict on every message.

        `applied`: it enters the user's last L; `unchanged`: it is there already (the user is re-driven); `stale`: older than
        the L that are. Sequences are read once; the store's own merge decides.

        Raises:
            Transient: the store is broken.
        """
        now, limit = self._clock(), self._settings.stream_event_bytes
        effects = Effects()
        split: tuple[list[_Seen], list[_Seen]] = ([], [])
        for message in messages:
            try:
                event = parse_behaviour(message.key, message.value, now_us=now, max_bytes=limit)
            except BadEvent as error:
                effects.results.append(_dead(message, error))
                continue
            behaviour = Behaviour(event.event_us, event.item_id, event.action)
            split[event.action in self._served].append(_Seen(message, event.event_id, event.user_id, behaviour))
        trace(Point.PARSED)
        for view, seen in zip(self._views, split, strict=True):
            if seen:
                self._merge(view, seen, effects, now)
        trace(Point.PLANNED)
        return effects

    def _merge(self, view: ViewSpec, seen: Sequence[_Seen], effects: Effects, now_us: int) -> None:
        by_user: dict[str, list[_Seen]] = {}
        for one in seen:
            by_user.setdefault(one.user_id, []).append(one)
        users, length = list(by_user), self._settings.sequence_length
        fresh: dict[str, list[Behaviour]] = {}
        touched: list[str] = []
        for user, stored in zip(users, self._store.read_sequences(view, users), strict=True):
            before = set(stored.behaviours)
            after = set(stored.merge((one.behaviour for one in by_user[user]), length=length).behaviours)
            new = sorted(after - before)
            if new:
                fresh[user] = new
            verdicts = [_verdict(one.behaviour, before, after) for one in by_user[user]]
            if new or Verdict.UNCHANGED in verdicts:
                touched.append(user)
            effects.results += [
                Result(one.message, verdict, one.event_id, user) for one, verdict in zip(by_user[user], verdicts, strict=True)
            ]
        if fresh:
            effects.online_only.append((view, _rows(fresh, now_us)))
        if touched:
            effects.touched.append((view, touched))


def _verdict(behaviour: Behaviour, before: set[Behaviour], after: set[Behaviour]) -> Verdict:
    """Of the events of one behaviour the first is applied, the others find it there."""
    if behaviour in before:
        return Verdict.UNCHANGED
    if behaviour not in after:
        return Verdict.STALE
    before.add(behaviour)
    return Verdict.APPLIED


def _rows(fresh: dict[str, list[Behaviour]], now_us: int) -> pa.Table:
    """One row of `schemas.USER_SEQUENCE` per user, of the new behaviours alone; the store makes the version."""
    lists: Iterable[list[Behaviour]] = fresh.values()
    columns: dict[str, Any] = {
        "user_id": list(fresh),
        "event_timestamp": [some[-1].time for some in lists],
        "created": [now_us] * len(fresh),
        "item_ids": [[b.item_id for b in some] for some in lists],
        "actions": [[b.action for b in some] for some in lists],
        "times": [[b.time for b in some] for some in lists],
        "sequence_version": [0] * len(fresh),
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in schemas.USER_SEQUENCE], schema=schemas.USER_SEQUENCE)


def _dead(message: Message, error: BadEvent) -> Result:
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return Result(message, Verdict.DEAD, error.event_id, error.entity_id, error.reason.value, error.detail, kind)
