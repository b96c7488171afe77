"""From the offline tables into the online store: what a store lacks is read off the committed files, one file at a time.

Nothing is assumed about who wrote a file or which run was cut short: every row is compared with where its item stands online, so
loading twice, or after a kill, or beside a live consumer ends in the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession

from jobs._progress import Progress
from jobs._spark import arrow_ddl, numbers
from moontide.errors import Transient
from moontide.order import ORDER_DTYPE, biased
from moontide.settings import Settings
from moontide.stores import online_store
from moontide.stores.base import Heads, OnlineStore, Status
from moontide.stores.offline import OfflineTables
from moontide.stores.offline_files import DataFile, metadata
from moontide.stores.offline_keys import order_columns
from moontide.stores.offline_rows import require_encoder
from moontide.stores.record_views import orders
from moontide.views import ViewKind, ViewSpec

_ROWS: Final = 8_192
LOADED: Final = pa.schema([("rows", pa.int64()), ("applied", pa.int64()), ("equal", pa.int64()), ("stale", pa.int64())])


class Loaded(NamedTuple):
    """Rows looked at, and what became of those that were written."""

    rows: int = 0
    applied: int = 0
    equal: int = 0
    stale: int = 0

    def plus(self, other: Loaded) -> Loaded:
        """The sum of both."""
        return Loaded(*(a + b for a, b in zip(self, other, strict=True)))


def load_file(store: OnlineStore, tables: OfflineTables, view: ViewSpec, file: DataFile) -> Loaded:
    """Write the rows of one file that are above what the store holds.

    Raises:
        FileNotFoundError, Transient: the file was compacted away (its rows are in another one), or a store failed.
    """
    wanted = _wanted(store, tables, view, file)
    total = Loaded(rows=len(wanted))
    if not wanted.any():
        return total
    # The float vector follows from codes and scale: reading it would double the bytes.
    columns = [c for c in view.table.names if c != "embedding"]
    at = 0
    for batch in read_file(tables, file, columns, own=view):
        chosen = wanted[at : at + len(batch)]
        at += len(batch)
        if chosen.any():
            done = store.write_rows(view, pa.Table.from_batches([batch]).filter(pa.array(chosen)))
            total = total.plus(Loaded(0, done.applied, done.equal, done.stale))
    return total


def read_file(
    tables: OfflineTables, file: DataFile, columns: Sequence[str], *, own: ViewSpec | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns of a committed file, in the order asked for, in batches of at most 8,192 rows.

    Raises:
        SpaceMismatch: the file holds vectors of another encoder than the view `own` names.
    """
    with tables.tree.open(file) as source:
        if own is not None:
            require_encoder(own, metadata(source), file.path)
        for batch in source.iter_batches(batch_size=_ROWS, columns=list(columns)):
            yield batch.select(list(columns))


def load_all(
    store: OnlineStore, tables: OfflineTables, view: ViewSpec, *, progress: Callable[[int], None] = lambda _: None
) -> Loaded:
    """`load_file` of every file of a view, those that a compaction makes meanwhile included."""
    total = Loaded()
    seen: set[str] = set()
    while files := unseen(tables, view, seen):
        for file in files:
            try:
                done = load_file(store, tables, view, file)
            except (FileNotFoundError, Transient):
                if still_there(tables, view, file):
                    raise
                continue
            progress(done.rows)
            total = total.plus(done)
    return total


def unseen(tables: OfflineTables, view: ViewSpec, seen: set[str]) -> list[DataFile]:
    """Files of a view that are not in `seen`; they are added to it."""
    files = [f for f in tables.tree.files(tables.folder(view)) if f.path not in seen]
    seen.update(f.path for f in files)
    return files


def still_there(tables: OfflineTables, view: ViewSpec, file: DataFile) -> bool:
    """Whether a file has not been compacted away."""
    return any(f.path == file.path for f in tables.tree.files(f"{tables.folder(view)}/{file.partition}"))


def load_everywhere(spark: SparkSession, settings: Settings, view: ViewSpec) -> Loaded:
    """`load_all` with progress: from executors where they reach the stores, else in the driver."""
    tables = OfflineTables(settings.offline_root)
    context = spark.sparkContext
    if settings.online != "redis":
        counted = [0]
        with closing(online_store(settings)) as store, Progress(f"load {view.name}", _rows(tables, view), lambda: counted[0]):
            return load_all(store, tables, view, progress=lambda n: counted.__setitem__(0, counted[0] + n))
    done = context.accumulator(0)
    total = Loaded()
    seen: set[str] = set()
    with Progress(f"load {view.name}", _rows(tables, view), lambda: done.value):
        while files := unseen(tables, view, seen):
            found = numbers(spark, len(files)).mapInArrow(
                LoadFiles(settings, str(settings.offline_root), view, files, done), arrow_ddl(LOADED)
            )
            for row in found.collect():
                total = total.plus(Loaded(*row))
    return total


class LoadFiles:
    """`mapInArrow` over file numbers, for stores that every machine reaches: `load_file` on executors."""

    def __init__(self, settings: Settings, root: str, view: ViewSpec, files: Sequence[DataFile], done: Accumulator[int]) -> None:
        self._settings, self._root, self._view, self._files, self._done = settings, root, view, list(files), done

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Load the files named in `batches`."""
        tables, store = OfflineTables(self._root), online_store(self._settings)
        try:
            for batch in batches:
                total = Loaded()
                for number in batch.column(0).to_pylist():
                    total = total.plus(self._load(store, tables, self._files[number]))
                yield pa.RecordBatch.from_arrays([pa.array([n], pa.int64()) for n in total], schema=LOADED)
        finally:
            store.close()

    def _load(self, store: OnlineStore, tables: OfflineTables, file: DataFile) -> Loaded:
        try:
            done = load_file(store, tables, self._view, file)
        except (FileNotFoundError, Transient):
            # The driver lists the files again and finds what replaced it.
            if still_there(tables, self._view, file):
                raise
            return Loaded()
        self._done.add(done.rows)
        return done


def _rows(tables: OfflineTables, view: ViewSpec) -> int:
    total = 0
    for file in tables.tree.files(tables.folder(view)):
        with suppress(FileNotFoundError), tables.tree.open(file) as source:
            total += source.metadata.num_rows
    return total


def _wanted(store: OnlineStore, tables: OfflineTables, view: ViewSpec, file: DataFile) -> NDArray[np.bool_]:
    """(rows of the file,) bool: rows above what the store holds; for sequences, which merge, those of another version."""
    masks = [np.zeros(0, np.bool_)]
    deleted = ["deleted"] if view.fenced else []
    version = ["sequence_version"] if view.kind is ViewKind.SEQUENCE else []
    columns = list(dict.fromkeys([*view.entities, *order_columns(view), *deleted, *version]))
    for batch in read_file(tables, file, columns, own=view):
        part = pa.Table.from_batches([batch])
        keys = [part[e].to_pylist() for e in view.entities]
        heads = store.heads(view, keys[0] if len(keys) == 1 else list(zip(*keys, strict=True)))
        masks.append(_another(part, heads) if version else _above(orders(view, part)[0], heads))
    return np.concatenate(masks)


def _above(rows: NDArray[np.void], heads: Heads) -> NDArray[np.bool_]:
    stored = np.zeros(len(rows), ORDER_DTYPE)
    for name in ("source_version", "event_timestamp", "encoded_at"):
        stored[name] = biased(getattr(heads, name))
    stored["content_hash"] = heads.content_hash
    higher = np.zeros(len(rows), np.bool_)
    tied = np.ones(len(rows), np.bool_)
    # An order key is 40 bytes compared from the left: five big-endian words.
    new, old = (np.frombuffer(keys.tobytes(), ">u8").reshape(-1, 5) for keys in (rows, stored))
    for word in range(5):
        higher |= tied & (new[:, word] > old[:, word])
        tied &= new[:, word] == old[:, word]
    higher |= heads.status == Status.ABSENT
    return higher


def _another(rows: pa.Table, heads: Heads) -> NDArray[np.bool_]:
    stored = np.ascontiguousarray(heads.content_hash[:, :8]).view(">i8").ravel()
    found: NDArray[np.bool_] = rows["sequence_version"].to_numpy() != stored
    found |= heads.status == Status.ABSENT
    return found
