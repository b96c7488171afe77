"""Offline Parquet tables: the full history of every view, append-only, partitioned by date.

``<root>/item_embedding/space=<space>/date=YYYY-MM-DD/*.parquet``, ``<root>/user_item_simtier/spec=<spec>/date=...`` and
``<root>/<view>/date=...``; the date is the UTC day of ``event_timestamp``. A row may be stored twice (a replay, a compaction
that was cut short): every reader here returns it once. Two rows are the same when `offline_keys.identity_columns` agree, so
they share a date and are found within one partition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from numpy.typing import NDArray

from moontide import names
from moontide.errors import Misconfigured, Transient
from moontide.stores.offline_files import BATCH_ROWS, DataFile, FileTree, metadata
from moontide.stores.offline_keys import FILE, ROW, distinct, identity_columns, key_columns, known, latest_rows, order_columns
from moontide.stores.offline_rows import by_date, conform, require_encoder, require_space, space_columns, stamped
from moontide.views import ViewSpec

_FAMILIES: Final = {names.EMBEDDING_VIEW_PREFIX: "space", names.SIMTIER_VIEW_PREFIX: "spec"}
_WRITER: Final = re.compile(r"[A-Za-z0-9._-]{1,120}")
_LISTINGS: Final = 5


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class OfflineTables:
    """The offline tables below one root. Any number of processes may append, read and compact at once.

    Args:
        root: a folder, or a URI pyarrow can open.
        clock: the time, for the age of files.
        system: a pyarrow file system that holds `root`; default: found from `root`.

    Raises:
        Misconfigured: `root` is a URI pyarrow cannot open.
    """

    def __init__(
        self, root: str | Path, *, clock: Callable[[], datetime] = utc_now, system: pafs.FileSystem | None = None
    ) -> None:
        self.tree = FileTree.at(root, system)
        remote = "://" in str(root) and self.tree.local is None
        self._shown = str(root).partition("?")[0].rstrip("/") if remote else self.tree.base
        self.clock = clock

    @staticmethod
    def folder(view: ViewSpec) -> str:
        """The folder of a view, relative to the root."""
        for prefix, key in _FAMILIES.items():
            if view.name.startswith(prefix):
                return f"{prefix.removesuffix('__')}/{key}={view.name.removeprefix(prefix)}"
        return view.name

    def path(self, view: ViewSpec) -> str:
        """The folder Feast's ``FileSource(path=...)`` reads (duckdb, dask and Spark find the date partitions below it)."""
        return f"{self._shown}/{self.folder(view)}"

    def ensure(self, view: ViewSpec) -> str:
        """`path`, made readable by Feast: a table without a file gets an empty one that carries the schema."""
        if not self.tree.files(self.folder(view)):
            self.tree.commit(f"{self.folder(view)}/date=1970-01-01", "part-schema", stamped(view).empty_table())
        return self.path(view)

    def require_own(self, view: ViewSpec) -> None:
        """Refuse a table that holds another encoder's vectors; its first file tells.

        Raises:
            SpaceMismatch: it does.
        """
        for file in self.tree.files(self.folder(view))[:1]:
            with suppress(FileNotFoundError), self.tree.open(file) as source:
                require_encoder(view, metadata(source), file.path)

    def append(self, view: ViewSpec, rows: pa.Table, *, writer: str) -> list[str]:
        """Commit rows, one file per date; each file is whole and durable when it becomes visible.

        Args:
            view: the table.
            rows: columns of ``view.table`` in any order; more are dropped.
            writer: names the files (``[A-Za-z0-9._-]``), e.g. the job and its partition. The same rows from the same writer are
                the same file, so a killed job may simply run again.

        Returns:
            paths, by date; none for no rows.

        Raises:
            Misconfigured: a column is missing or of another type; nothing was written.
            SpaceMismatch: embedding rows of another space; nothing was written.
            Poison: a null where the schema allows none; nothing was written.
            Transient: the file system failed; the files of earlier dates are committed (write all again).
        """
        if _WRITER.fullmatch(writer) is None:
            raise Misconfigured(f"offline writer: expected 1 to 120 characters of [A-Za-z0-9._-], got {writer!r}")
        rows = conform(view, rows)
        self.require_own(view)
        paths = []
        for day, chosen in by_date(rows):
            part = rows if chosen is None else rows.take(pa.array(chosen))
            paths.append(self.tree.commit(f"{self.folder(view)}/date={day}", f"part-{writer}", part))
        return paths

    def partitions(self, view: ViewSpec, *, until: date | None = None) -> list[str]:
        """Partition folders (``date=YYYY-MM-DD``) that hold files, in order, up to the day `until`."""
        found = sorted({f.partition for f in self.tree.files(self.folder(view))})
        return [p for p in found if until is None or p <= f"date={until.isoformat()}"]

    def scan(
        self, view: ViewSpec, columns: Sequence[str] | None = None, *, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """Every distinct row, in tables of at most 64k rows, by date; memory holds the keys of one date and one table.

        Args:
            view: the table.
            columns: the columns wanted, in order; default: all.
            where: an Arrow expression over any columns of the view.

        Raises:
            SpaceMismatch: an embedding of another space, or of another encoder; `latest` and `latest_heads` too.
        """
        wanted = list(columns) if columns is not None else view.table.names
        read = wanted if where is None else view.table.names
        for partition in self.partitions(view):
            files, keys = self.keys(view, partition)
            for table in self.kept(view, files, distinct(keys, identity_columns(view)), read):
                found = table if where is None else table.filter(where)
                if found.num_rows:
                    yield found.select(wanted)

    def latest(self, view: ViewSpec, ids: Sequence[str] | None = None, *, as_of: datetime | None = None) -> Iterator[pa.Table]:
        """The latest row of each entity by write order, tombstones included, in tables of at most 64k rows, in no order.

        Args:
            view: the table.
            ids: only entities whose first join key is among these.
            as_of: only rows known then: `event_timestamp` and `content_known_at` (where there is one) not after it; without a
                zone it is UTC. When a row was encoded does not count, so a new space can be read as of the past.
        """
        files, won = self._winners(view, ids, as_of)
        numbers, rows = won[FILE].to_numpy(), won[ROW].to_numpy()
        for number in np.unique(numbers):
            mask = np.zeros(int(rows[numbers == number].max()) + 1, np.bool_)
            mask[rows[numbers == number]] = True
            yield from self.kept(view, [files[number]], mask)

    def latest_heads(self, view: ViewSpec, ids: Sequence[str] | None = None, *, as_of: datetime | None = None) -> pa.Table:
        """Where each entity stands: join keys, `offline_keys.order_columns` and `deleted`; one row per entity, in no order."""
        deleted = [names.DELETED] if names.DELETED in view.table.names else []
        return self._winners(view, ids, as_of)[1].select([*view.entities, *order_columns(view), *deleted])

    def keys(self, view: ViewSpec, partition: str) -> tuple[list[DataFile], pa.Table]:
        """The files of a partition, and the key columns of their rows in file order, duplicates included.

        Raises:
            SpaceMismatch: an embedding of another space, or of another encoder.
            Transient: files were compacted away as often as they were listed.
        """
        columns = key_columns(view)
        read = [*columns, *space_columns(view)]
        schema = pa.schema([view.table.field(c) for c in read])
        for _ in range(_LISTINGS):
            files = self.tree.files(f"{self.folder(view)}/{partition}")
            try:
                tables = [pa.Table.from_batches(self._batches(view, f, read), schema) for f in files]
            except FileNotFoundError:
                continue
            # Before rows are told apart: a row of another space may have the keys of one of this.
            for file, table in zip(files, tables, strict=True):
                require_space(view, table, file.path)
            return files, pa.concat_tables([_located(t.select(columns), number) for number, t in enumerate(tables)])
        raise Transient(f"{self.path(view)}/{partition}: expected files to stay, got {_LISTINGS} compactions; read again")

    def kept(
        self, view: ViewSpec, files: list[DataFile], mask: NDArray[np.bool_], columns: list[str] | None = None
    ) -> Iterator[pa.Table]:
        """The rows of `files`, in order, where `mask` is set; rows past its end are not. All columns unless some are named.

        Raises:
            Transient: a file was compacted away since it was listed.
        """
        at = 0
        for file in files:
            try:
                for batch in self._batches(view, file, columns or view.table.names):
                    chosen = mask[at : at + len(batch)]
                    at += len(batch)
                    if chosen.any():
                        table = pa.Table.from_batches([batch.slice(0, len(chosen))])
                        yield table if chosen.all() else table.filter(pa.array(chosen))
            except FileNotFoundError as error:
                raise Transient(f"{file.path}: expected a file, it was compacted while being read; read again") from error

    def _batches(self, view: ViewSpec, file: DataFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self.tree.open(file) as source:
            require_encoder(view, metadata(source), file.path)
            yield from source.iter_batches(batch_size=BATCH_ROWS, columns=columns)

    def _winners(self, view: ViewSpec, ids: Sequence[str] | None, as_of: datetime | None) -> tuple[list[DataFile], pa.Table]:
        until = None if as_of is None else _in_utc(as_of).date()
        wanted = None if ids is None else pa.array(list(ids), pa.string())
        listed: list[DataFile] = []
        best = _located(pa.schema([view.table.field(c) for c in key_columns(view)]).empty_table(), 0)
        for partition in self.partitions(view, until=until):
            files, keys = self.keys(view, partition)
            if wanted is not None:
                keys = keys.filter(pc.is_in(keys[view.entities[0]], wanted))
            if as_of is not None:
                keys = keys.filter(pa.array(known(view, keys, as_of)))
            numbers = pc.add(keys[FILE], len(listed))
            keys = keys.set_column(keys.column_names.index(FILE), FILE, numbers)
            listed += files
            best = latest_rows(view, pa.concat_tables([best, keys]))
        return listed, best


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _located(keys: pa.Table, number: int) -> pa.Table:
    """`keys` of one file with the number of that file and each row's place in it."""
    numbers = pa.array(np.full(keys.num_rows, number, np.int64))
    return keys.append_column(FILE, numbers).append_column(ROW, pa.array(np.arange(keys.num_rows)))
