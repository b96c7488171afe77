"""What follows the online record: the index, and the change stream `item-embeddings`.

Both get the *current* record of an item, never the one an event brought, so that whoever comes late, a replay, a zombie or a
second consumer, can only bring them up to date. After a write each is compared with the record again, because a slower writer may
have put an older one on top.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import pyarrow as pa

from moontide.errors import Transient
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import DirtyMark, OnlineStore, VectorIndex
from moontide.stores.indexer import Indexer, head_tokens
from moontide.views import embedding_view
from streaming.message import Point, Trace

_ROUNDS: Final = 10
_SWEEP: Final = 1_000
_REMEMBERED: Final = 100_000


class Changes(Protocol):
    """The change stream, as `streaming.changes.ChangeStream`."""

    def publish(self, space: EmbeddingSpace, rows: pa.Table) -> None:
        """Send records; known to have arrived after `wait`."""

    def wait(self) -> None:
        """Await what was sent; `Transient` where some of it did not arrive."""


class Follower:
    """Index and change stream of one space. Used by one thread.

    Args:
        online: the arbiter.
        index: the vector index.
        changes: the change stream.
        space: the space.
        trace: called at `Point.INDEX_WRITTEN` and `INDEX_FLUSHED`.
    """

    def __init__(self, online: OnlineStore, index: VectorIndex, changes: Changes, space: EmbeddingSpace, trace: Trace) -> None:
        self.space = space
        self._online = online
        self._index = index
        self._changes = changes
        self._trace = trace
        self._view = embedding_view(space)
        self._indexer: Indexer | None = None
        self._waiting: dict[str, None] = {}
        self._copied: dict[str, DirtyMark] = {}
        self._unsent: dict[str, None] = {}
        #: What this process has brought everywhere, by the version it had.
        self._settled: OrderedDict[str, bytes] = OrderedDict()

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` whose record, as it stands now, this process has already made durable everywhere."""
        seen = [item for item in ids if item in self._settled]
        tokens = head_tokens(self._online.heads(self._view, seen))
        return {item for item, token in zip(seen, tokens, strict=True) if self._settled[item] == token}

    @property
    def unsettled(self) -> bool:
        """Whether anything was followed that is not known to be durable."""
        return bool(self._copied or self._waiting or self._unsent)

    def follow(self, ids: Sequence[str]) -> None:
        """Copy the current records of `ids`, and of what an earlier failure left, to index and change stream.

        Raises:
            Transient: one of them failed; call again, also with no ids.
        """
        self._waiting.update(dict.fromkeys(ids))
        if self._waiting:
            self._copy(list(self._waiting))
        if self._unsent:
            self._send(list(self._unsent))

    def settle(self, offline: Mapping[str, bytes]) -> None:
        """Make everything that was followed durable: index flushed, marks cleared, change stream acknowledged.

        Args:
            offline: items with the version this process has just written offline; the current one may be another writer's.

        Raises:
            Transient: call again; nothing is forgotten.
        """
        self.follow(())
        if self._copied:
            self._flush()
        self._trace(Point.INDEX_FLUSHED)
        self._await_changes()
        self._settled.update((item, mark.token) for item, mark in self._copied.items() if offline.get(item) == mark.token)
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)
        self._copied = {}

    def sweep(self) -> int:
        """Follow items that are marked although nobody here touched them (a job, a crash); returns how many.

        Raises:
            Transient: as `follow`.
        """
        ids = [mark.item_id for mark in self._online.dirty(self.space, _SWEEP) if mark.item_id not in self._copied]
        if ids:
            self.follow(ids)
            # An item removed for good leaves a mark and no record: only the whole comparison clears that.
            if set(ids) - set(self._copied):
                self._made_indexer().run_once(limit=_SWEEP)
        return len(ids)

    def _made_indexer(self) -> Indexer:
        if self._indexer is None:
            self._indexer = Indexer(self._online, self._index, self.space)
            if self._index.resolve_alias(self.space.name) is None:
                self._index.point_alias(self.space)
        return self._indexer

    def _copy(self, ids: list[str]) -> None:
        rows = self._online.read_records(self._view, ids)
        try:
            marks = self._made_indexer().copy(ids, rows)
        except Transient:
            self._again()
            raise
        for item in ids:
            self._waiting.pop(item, None)
        self._copied.update((mark.item_id, mark) for mark in marks)
        self._trace(Point.INDEX_WRITTEN)
        self._changes.publish(self.space, rows)

    def _flush(self) -> None:
        try:
            self._made_indexer().settle(list(self._copied.values()))
        except Transient:
            self._again()
            raise

    def _again(self) -> None:
        """The index was opened anew: what it had not flushed may be gone."""
        self._waiting.update(dict.fromkeys(self._copied))

    def _send(self, ids: list[str]) -> None:
        rows = self._online.read_records(self._view, ids)
        self._changes.publish(self.space, rows)
        for item in ids:
            self._unsent.pop(item, None)

    def _await_changes(self) -> None:
        """Until what the topic got last is what the store holds."""
        for _ in range(_ROUNDS):
            try:
                self._changes.wait()
            except Transient:
                self._unsent.update(dict.fromkeys(self._copied))
                raise
            late = self._outdated()
            if not late:
                return
            self._send(late)
        raise Transient(
            f"{self._view.name}: expected the change stream to catch up in {_ROUNDS} rounds, got more changes; waiting"
        )

    def _outdated(self) -> list[str]:
        """Items whose record is not the one that was copied; they are noted as they stand now."""
        ids = list(self._copied)
        tokens = head_tokens(self._online.heads(self._view, ids))
        late = [item for item, token in zip(ids, tokens, strict=True) if self._copied[item].token != token]
        now = dict(zip(ids, tokens, strict=True))
        self._copied.update((item, DirtyMark(item, now[item])) for item in late)
        self._waiting.update(dict.fromkeys(late))
        return late
