"""Folding the small files of an offline table.

Every date's small files become few large ones and exact duplicates go; every distinct version stays, because point-in-time
reads need the history. The last folded file names, in its metadata, the files it replaces; they are removed once it has been
there for `grace`, so a reader that listed them before can finish. Between the two a row is stored twice, which readers expect;
at no moment is one missing. A killed compaction is finished by the next.

Every folded file carries a digest of what its fold replaces, and names are digests of content: no file of a fold can bear the
name of a file that the fold replaces, and so be removed as one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_files import DataFile, metadata
from moontide.stores.offline_keys import FILE, distinct, identity_columns
from moontide.stores.offline_rows import stamped
from moontide.views import ViewSpec

REPLACES_KEY: Final = b"moontide.replaces"
FOLD_KEY: Final = b"moontide.fold"
_NOW: Final = timedelta(0)
_STAGED_FOR: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CompactCounts:
    """What a compaction found and left.

    Attributes:
        partitions: dates looked at.
        files_before: files before.
        files_after: files after, those that wait for `grace` to pass included.
        rows_before: rows before, duplicates included.
        rows_after: distinct rows: what every reader sees before and after.
        waiting: replaced files that the next compaction after `grace` removes.
    """

    partitions: int = 0
    files_before: int = 0
    files_after: int = 0
    rows_before: int = 0
    rows_after: int = 0
    waiting: int = 0

    def __add__(self, other: CompactCounts) -> CompactCounts:
        return CompactCounts(
            self.partitions + other.partitions,
            self.files_before + other.files_before,
            self.files_after + other.files_after,
            self.rows_before + other.rows_before,
            self.rows_after + other.rows_after,
            self.waiting + other.waiting,
        )


def compact(
    tables: OfflineTables,
    view: ViewSpec,
    *,
    target_rows: int = 250_000,
    older_than: timedelta = _NOW,
    grace: timedelta = timedelta(hours=1),
) -> CompactCounts:
    """Fold each date's files of fewer than half `target_rows` rows, and those that hold duplicates, into files of `target_rows`.

    One compaction of a view at a time is enough; two at once store rows twice, and lose none.

    Args:
        tables: the tables.
        view: which one.
        target_rows: rows of a folded file; memory holds that many.
        older_than: leave files younger than this alone.
        grace: how long replaced files stay for readers that listed them before (0: removed at once).

    Raises:
        Misconfigured: `target_rows` below 1.
        Transient: the file system failed; run again.
    """
    if target_rows < 1:
        raise Misconfigured(f"target_rows: expected 1 or more, got {target_rows}")
    now = tables.clock()
    tables.tree.sweep((now - _STAGED_FOR).timestamp())
    total = CompactCounts()
    for partition in tables.partitions(view):
        before, all_keys = tables.keys(view, partition)
        plan = _plan(tables, view, before, all_keys)
        chosen = plan.to_fold(target_rows, before=(now - older_than).timestamp() if older_than > _NOW else inf)
        if chosen:
            _fold(tables, view, partition, plan, chosen, target_rows)
        limit = (now - grace).timestamp() if grace > _NOW else inf
        after, waiting = _remove_replaced(tables, f"{tables.folder(view)}/{partition}", limit)
        total += CompactCounts(1, len(before), after, all_keys.num_rows, int(plan.keep.sum()), waiting)
    return total


@dataclass(frozen=True, slots=True)
class _Plan:
    """A partition without its replaced files: `keep` marks each row's first occurrence, `numbers` the file it lies in."""

    files: list[DataFile]
    keep: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    replaced: frozenset[str]

    def to_fold(self, target_rows: int, before: float) -> list[int]:
        """Files worth folding: two or more small ones, or any that hold duplicates; none younger than `before`."""
        rows = np.bincount(self.numbers, minlength=len(self.files))
        duplicates = np.bincount(self.numbers[~self.keep], minlength=len(self.files))
        old = np.array([f.modified <= before for f in self.files], np.bool_)
        chosen = np.flatnonzero(old & ((rows * 2 < target_rows) | (duplicates > 0)))
        return [int(n) for n in chosen] if len(chosen) > 1 or duplicates[chosen].any() else []


def _plan(tables: OfflineTables, view: ViewSpec, before: list[DataFile], keys: pa.Table) -> _Plan:
    replaced = frozenset(name for file in before for name in _replaces(tables, file))
    active = [n for n, file in enumerate(before) if _name(file) not in replaced]
    numbers = keys[FILE].to_numpy()
    mask = np.isin(numbers, active)
    keep = distinct(keys.filter(pa.array(mask)), identity_columns(view))
    return _Plan([before[n] for n in active], keep, np.searchsorted(active, numbers[mask]), replaced)


def _fold(tables: OfflineTables, view: ViewSpec, partition: str, plan: _Plan, chosen: list[int], target_rows: int) -> None:
    folder, schema = f"{tables.folder(view)}/{partition}", stamped(view)
    mask = plan.keep[np.isin(plan.numbers, chosen)]
    files = [plan.files[n] for n in chosen]
    replaces = json.dumps(sorted(plan.replaced.union(_name(f) for f in files))).encode()
    schema = schema.with_metadata({**schema.metadata, FOLD_KEY: hashlib.sha256(replaces).hexdigest()[:16].encode()})
    last = schema.with_metadata({**schema.metadata, REPLACES_KEY: replaces})
    pending = schema.empty_table()
    for chunk in _chunks(tables.kept(view, files, mask), target_rows):
        if pending.num_rows:
            tables.tree.commit(folder, "fold", pending)
        pending = chunk.replace_schema_metadata(schema.metadata)
    tables.tree.commit(folder, "fold", pending.replace_schema_metadata(last.metadata))


def _chunks(parts: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        while sum(t.num_rows for t in waiting) >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows).combine_chunks()
            waiting = [whole.slice(rows)]
    if sum(t.num_rows for t in waiting):
        yield pa.concat_tables(waiting).combine_chunks()


def _remove_replaced(tables: OfflineTables, folder: str, limit: float) -> tuple[int, int]:
    """Remove what files last modified before `limit` replace; (files left, of them replaced)."""
    files = tables.tree.files(folder)
    waiting: set[str] = set()
    gone: set[str] = set()
    for file in files:
        (gone if file.modified <= limit else waiting).update(_replaces(tables, file))
    for file in files:
        if _name(file) in gone:
            tables.tree.remove(file.path)
    left = [f for f in files if _name(f) not in gone]
    return len(left), sum(_name(f) in waiting for f in left)


def _replaces(tables: OfflineTables, file: DataFile) -> list[str]:
    found: list[str] = []
    with suppress(FileNotFoundError), tables.tree.open(file) as source:  # another compaction was faster
        found = json.loads(metadata(source).get(REPLACES_KEY, b"[]"))
    return found


def _name(file: DataFile) -> str:
    return file.path.rsplit("/", 1)[-1]
