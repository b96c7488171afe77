"""The indexer: brings a vector index up to date with the online store, which alone decides what is current.

It may die between any two steps and be run again: marks are cleared after a flush, and only those that nothing marked anew
meanwhile. Several may run at once, a backfill's beside a live one: one may then write over the newer row of another, so each
compares index and store again after it cleared, and marks what differs. Only where one of several dies between its write and
that comparison may a row stay behind unmarked: `Indexer.repair` finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa

from moontide import views
from moontide.embeddings import Embeddings
from moontide.order import KEY_BYTES, ORDER_DTYPE, biased
from moontide.spaces import EmbeddingSpace
from moontide.stores.base import DirtyMark, Heads, OnlineStore, Status, VectorIndex
from moontide.stores.record_views import orders
from moontide.views import ViewSpec


@dataclass(frozen=True, slots=True)
class IndexCounts:
    """What an indexer did: rows upserted, rows deleted or found without a vector, marks cleared."""

    upserted: int = 0
    deleted: int = 0
    cleared: int = 0

    def __add__(self, other: IndexCounts) -> IndexCounts:
        return IndexCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class RepairCounts:
    """What an audit found: items compared, items marked dirty, index rows deleted because no record has their id."""

    checked: int = 0
    marked: int = 0
    deleted: int = 0


class Indexer:
    """Copies current records of one space from an online store to a vector index.

    Args:
        online: the arbiter.
        index: what follows it.
        space: the space; its collection is created where there is none.

    Raises:
        SpaceMismatch: the collection holds another encoder's vectors.
    """

    def __init__(self, online: OnlineStore, index: VectorIndex, space: EmbeddingSpace) -> None:
        index.ensure(space)
        self._online = online
        self._index = index
        self._space = space
        self._view = views.embedding_view(space)

    def run_once(self, *, limit: int = 10_000) -> IndexCounts:
        """Bring up to `limit` dirty items up to date; all zero when nothing was dirty.

        Safe beside other indexers of the space. A crash between the write and the comparison that ends it, while another
        indexer runs, needs `repair`; a crash of the only one needs nothing but another run.

        Raises:
            Transient: a store failed; no mark was cleared for what is not durable in the index. Run again.
        """
        marks = self._online.dirty(self._space, limit)
        if not marks:
            return IndexCounts()
        ids = [mark.item_id for mark in marks]
        upserted, _ = self._write(ids, self._online.read_records(self._view, ids))
        return IndexCounts(upserted, len(ids) - upserted, self.settle(marks))

    def copy(self, ids: Sequence[str], rows: pa.Table | None = None) -> list[DirtyMark]:
        """Bring the index rows of these items up to their current records, at once and not yet durable.

        Args:
            ids: distinct items.
            rows: their current records (`OnlineStore.read_records`), where the caller has just read them.

        Returns:
            What to hand to `settle`: each item with the version that was copied.

        Raises:
            Transient: the index failed; what was copied since the last `settle` is to be copied again.
        """
        if not ids:
            return []
        return self._write(ids, self._online.read_records(self._view, ids) if rows is None else rows)[1]

    def settle(self, marks: Sequence[DirtyMark]) -> int:
        """Make everything copied durable, clear the marks of what has not changed since, and mark what another indexer undid.

        Returns:
            how many marks were cleared.

        Raises:
            Transient: as `copy`; no mark was cleared for what is not durable.
        """
        self._index.flush(self._space)
        cleared = self._online.clear_dirty(self._space, marks)
        self._mark_outdated([mark.item_id for mark in marks])
        return cleared

    def drain(self, *, max_rounds: int = 1_000, limit: int = 10_000) -> IndexCounts:
        """`run_once` until nothing is dirty, or `max_rounds` times (writers may mark faster than this clears)."""
        total = IndexCounts()
        for _ in range(max_rounds):
            counts = self.run_once(limit=limit)
            total += counts
            if not (counts.upserted or counts.deleted):
                break
        return total

    def repair(self) -> RepairCounts:
        """Compare both stores whole and mark every item whose index row is missing, outdated or should not be; then `drain`.

        Rows whose item has no record at all are deleted here, since nothing is left to mark. Items written while this runs may be
        marked without need, which costs a copy.
        """
        checked = marked = 0
        for page in self._online.scan(self._view):
            ids = [str(item) for item in page]
            checked += len(ids)
            marked += self._mark_outdated(ids)
        orphans = [item for page in self._index.scan(self._space) for item in self._without_record([i for i, _ in page])]
        marked += self._remove(orphans)
        self._index.flush(self._space)
        return RepairCounts(checked, marked, len(orphans))

    def _mark_outdated(self, ids: Sequence[str]) -> int:
        """Mark the items whose index row is not that of their record now; rows of items without a record are removed."""
        wrong = self._outdated(ids)
        lost = self._without_record(wrong)
        marked = self._remove(lost)
        if lost:
            self._index.flush(self._space)
        kept = sorted(set(wrong).difference(lost))
        return marked + (self._online.mark_dirty(self._space, kept) if kept else 0)

    def _remove(self, ids: list[str]) -> int:
        """Remove index rows of items without a record; marks the items that have one by then, and returns how many."""
        if not ids:
            return 0
        self._index.delete(self._space, ids)
        return self._online.mark_dirty(self._space, ids)

    def _write(self, ids: Sequence[str], rows: pa.Table) -> tuple[int, list[DirtyMark]]:
        """Write what `rows` say of `ids`; returns how many have a vector, and every record's version."""
        current, tokens, marks = self._vectors(rows)
        written = set(current.ids or ())
        gone = [item for item in ids if item not in written]
        if len(current):
            self._index.upsert(self._space, current, tokens)
        if gone:
            self._index.delete(self._space, gone)
        return len(current), marks

    def _vectors(self, rows: pa.Table) -> tuple[Embeddings, list[bytes], list[DirtyMark]]:
        """The vectors to be shown with their order keys, and every record's own."""
        packed, deleted = orders(self._view, rows)
        marks = [DirtyMark(i, t) for i, t in zip(rows["item_id"].to_pylist(), _keys(packed.tobytes()), strict=True)]
        live = np.flatnonzero(~deleted)
        rows, packed = rows.take(pa.array(live)), packed[live]
        codes = np.frombuffer(b"".join(rows["codes"].to_pylist()), np.int8).reshape(len(live), self._space.dim)
        found = Embeddings.from_codes(self._space, codes, rows["scale"].to_numpy(), ids=rows["item_id"].to_pylist())
        return found.take(found.present), list(_keys(packed[found.present].tobytes())), marks

    def _outdated(self, ids: Sequence[str]) -> list[str]:
        heads = self._online.heads(self._view, ids)
        expected = head_tokens(heads)
        shown = np.isin(heads.status, (Status.PRESENT, Status.EXPIRED))
        got = self._index.tokens(self._space, ids)
        wrong = [n for n in range(len(ids)) if got[n] != (expected[n] if shown[n] else None)]
        missing = [ids[n] for n in wrong if got[n] is None]
        present = self._online.read_embeddings(self._space, missing).present
        without_vector = {item for item, there in zip(missing, present, strict=True) if not there}
        return [ids[n] for n in wrong if ids[n] not in without_vector]

    def _without_record(self, ids: Sequence[str]) -> list[str]:
        absent = self._online.heads(self._view, ids).status == Status.ABSENT
        return [item for item, gone in zip(ids, absent, strict=True) if gone]


def order_keys(view: ViewSpec, rows: pa.Table) -> list[bytes]:
    """The order key of each row, as index rows and marks carry it."""
    return list(_keys(orders(view, rows)[0].tobytes()))


def head_tokens(heads: Heads) -> list[bytes]:
    """The order key of each head, as index rows and marks carry it."""
    packed = np.zeros(len(heads.status), ORDER_DTYPE)
    for name in ("source_version", "event_timestamp", "encoded_at"):
        packed[name] = biased(getattr(heads, name))
    packed["content_hash"] = heads.content_hash
    return list(_keys(packed.tobytes()))


def _keys(packed: bytes) -> Iterator[bytes]:
    return (packed[at : at + KEY_BYTES] for at in range(0, len(packed), KEY_BYTES))
