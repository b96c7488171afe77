"""Files of the offline tables: where they lie, how one is committed, and how a folder of them is read.

A committed file never changes: its name carries a digest of its bytes, so writing the same rows again is the same file, and no
two contents ever share a name. A reader therefore sees a whole file or none, and folding files needs no lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from moontide.errors import Misconfigured, Transient

T = TypeVar("T")

FORMAT_KEY: Final = b"moontide.format"
FORMAT: Final = b"1"
_ROW_GROUP_BYTES: Final = 32 << 20
_ROW_GROUP_ROWS: Final = 1 << 17
BATCH_ROWS: Final = 1 << 16
_STAGING: Final = "_staging"
_SUFFIX: Final = ".parquet"


class DataFile(NamedTuple):
    """One committed file: path inside the file system, its partition folder's name, bytes, and when it was last modified in
    seconds since the epoch (infinity where the file system does not say: never old).
    """

    path: str
    partition: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class FileTree:
    """A root folder of a file system, local or remote.

    Attributes:
        system: the file system.
        base: the root inside it.
        local: the root on this machine's disk, where files are staged, fsynced and renamed; None elsewhere, where a file
            appears when its upload completes.
    """

    system: pafs.FileSystem
    base: str
    local: Path | None

    @classmethod
    def at(cls, root: str | Path, system: pafs.FileSystem | None = None) -> FileTree:
        """The tree at a path, at a URI pyarrow can open (``s3://``, ``gs://``, ``hdfs://``), or inside `system`.

        Raises:
            Misconfigured: a URI pyarrow cannot open.
        """
        if system is not None:
            return cls(system, str(root).rstrip("/"), None)
        if "://" not in str(root):
            local = Path(root).absolute()
            return cls(pafs.LocalFileSystem(), str(local), local)
        try:
            found, base = pafs.FileSystem.from_uri(str(root))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise Misconfigured(
                f"offline root: expected a folder or a URI pyarrow can open (s3://, gs://, hdfs://), got {root}: {error}"
            ) from error
        return cls(found, base, Path(base) if isinstance(found, pafs.LocalFileSystem) else None)

    def files(self, folder: str) -> list[DataFile]:
        """Committed files below `folder` (relative), by partition, then name; none where the folder is absent."""
        selector = pafs.FileSelector(f"{self.base}/{folder}", allow_not_found=True, recursive=True)
        found = []
        for info in self._outside("list", lambda: self.system.get_file_info(selector)):
            parts = info.path.split("/")
            if info.type == pafs.FileType.File and parts[-1].endswith(_SUFFIX) and not parts[-1].startswith(("_", ".")):
                found.append(DataFile(info.path, parts[-2], info.size, inf if info.mtime_ns is None else info.mtime_ns / 1e9))
        return sorted(found, key=lambda f: (f.partition, f.path))

    def commit(self, folder: str, name: str, table: pa.Table) -> str:
        """Write one Parquet file ``<folder>/<name>-<digest>.parquet``, whole or not at all, and durable where local.

        Returns:
            its path inside the file system; that of the file already there where it holds the same bytes.

        Raises:
            Transient: the file system failed; nothing is visible.
        """
        try:
            return self._outside("write", lambda: self._commit(folder, name, table))
        except FileNotFoundError as error:
            raise self._failed("write", error) from error

    def _commit(self, folder: str, name: str, table: pa.Table) -> str:
        if self.local is None:
            sink = pa.BufferOutputStream()
            write_parquet(table, sink)
            content = sink.getvalue()
            path = f"{self.base}/{folder}/{name}-{hashlib.sha256(content).hexdigest()[:16]}{_SUFFIX}"
            self.system.create_dir(f"{self.base}/{folder}", recursive=True)
            with self.system.open_output_stream(path) as stream:
                stream.write(content)
            return path
        staged = self.local / _STAGING / uuid.uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staged.open("wb+") as file:
                write_parquet(table, file)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            target = self.local / folder / f"{name}-{digest}{_SUFFIX}"
            _make_folder(target.parent)
            staged.replace(target)
            fsync(target.parent)
        finally:
            staged.unlink(missing_ok=True)
        return str(target)

    def remove(self, path: str) -> None:
        """Remove a committed file; one already gone is fine."""
        with suppress(FileNotFoundError):
            self._outside("remove", lambda: self.system.delete_file(path))

    def sweep(self, before: float) -> int:
        """Remove staged files of killed writers, last touched before `before` (seconds since the epoch); returns how many."""
        if self.local is None or not (self.local / _STAGING).is_dir():
            return 0
        old = [f for f in (self.local / _STAGING).iterdir() if f.stat().st_mtime < before]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    def open(self, file: DataFile) -> pq.ParquetFile:
        """A file for reading; close it.

        Raises:
            FileNotFoundError: it was folded into another file after it was listed.
            Transient: the file system failed.
            Misconfigured: no Parquet file, or one of another format version.
        """
        try:
            source = self._outside("read", lambda: pq.ParquetFile(self.system.open_input_file(file.path)))
        except pa.ArrowInvalid as error:
            raise Misconfigured(f"{file.path}: expected Parquet, got {file.size} other bytes; remove it: {error}") from error
        version = metadata(source).get(FORMAT_KEY, FORMAT)
        if version != FORMAT:
            source.close()
            raise Misconfigured(f"{file.path}: expected offline format {FORMAT!r}, got {version!r}; upgrade moontide to read it")
        return source

    def batches(self, file: DataFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """A file's rows in order, at most 64k a batch; raises as `open`."""
        with self.open(file) as source:
            yield from source.iter_batches(batch_size=BATCH_ROWS, columns=columns)

    @classmethod
    def _outside(cls, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cls._failed(what, error) from error

    @staticmethod
    def _failed(what: str, error: OSError) -> Transient:
        return Transient(f"offline tables: {what}: expected success, got: {error}; see to the disk, then retry")


def metadata(source: pq.ParquetFile) -> dict[bytes, bytes]:
    """The key-value metadata of a file's schema."""
    return dict(source.schema_arrow.metadata or {})


def write_parquet(table: pa.Table, sink: object) -> None:
    """Write `table` as zstd Parquet with row groups of at most 32 MB or 131,072 rows."""
    per_row = max(1, table.nbytes // max(1, table.num_rows))
    rows = max(1_024, min(_ROW_GROUP_ROWS, _ROW_GROUP_BYTES // per_row))
    texts = [f.name for f in table.schema if pa.types.is_string(f.type) and f.name not in ("item_id", "content_hash")]
    pq.write_table(table, sink, compression="zstd", row_group_size=rows, use_dictionary=texts)


def _make_folder(folder: Path) -> None:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        fsync(made.parent)


def fsync(path: Path) -> None:
    """Bring a file, or a folder's list of entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file durably, keeping its mode; a reader sees what was there before or all of `content`.

    Raises:
        OSError: it could not be written; what was there before is left.
    """
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(path, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    fsync(path.parent)
