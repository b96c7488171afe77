"""Parquet that a site hands in: which files and row groups, and columns in the types of a contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moontide import names, schemas
from moontide.errors import Misconfigured

_BATCH_BYTES: Final = 8 << 20


class Unit(NamedTuple):
    """One row group: what one task reads. `first_row` is its place in the file."""

    path: str
    source: int
    row_group: int
    first_row: int
    rows: int


class InputTable(NamedTuple):
    """Checked Parquet files of one schema.

    Attributes:
        uri: what was named.
        files: paths inside the file system, in order; `Unit.source` counts them.
        columns: which of the contract's columns the files have.
        units: every row group, in order.
    """

    uri: str
    files: tuple[str, ...]
    columns: tuple[str, ...]
    units: tuple[Unit, ...]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(unit.rows for unit in self.units)


def open_table(uri: str, contract: pa.Schema, required: tuple[str, ...], *, what: str) -> InputTable:
    """Look at a Parquet file, or a folder of them, without reading a row.

    Raises:
        Misconfigured: nothing there, no Parquet, a required column is missing, or a column is of another kind.
    """
    if not uri.strip():
        raise Misconfigured(f"{what}: expected a path or URI, got an empty one; name the file or folder")
    system, base = file_system(uri)
    files = _files(system, _own_part(system, base, what), what)
    columns: tuple[str, ...] | None = None
    units: list[Unit] = []
    for source, path in enumerate(files):
        metadata, schema = _footer(system, path, what)
        schemas.require_columns(schema, contract, required, where=f"{what} {path}")
        known = tuple(f.name for f in contract if f.name in schema.names)
        if columns is not None and known != columns:
            raise Misconfigured(
                f"{what} {path}: expected the columns of {files[0]}, {list(columns)}, got {list(known)}; export all files alike"
            )
        columns = known
        first = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            units.append(Unit(path, source, group, first, rows))
            first += rows
    return InputTable(uri, tuple(files), columns or (), tuple(units))


def file_system(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path inside it."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        system, base = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Misconfigured(f"expected a path or a URI pyarrow can open (s3://, gs://, hdfs://), got {uri}: {error}") from error
    return system, base


def read_unit(table: InputTable, unit: Unit, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The contract's columns of one row group, in order, in batches of at most `batch_rows` rows and, on average, 8 MB."""
    system, _ = file_system(table.uri)
    # Buffered, so that a row group of images is streamed and never whole in memory.
    with pq.ParquetFile(system.open_input_file(unit.path), buffer_size=1 << 20) as source:
        per_row = source.metadata.row_group(unit.row_group).total_byte_size // max(1, unit.rows)
        rows = max(1, min(batch_rows, _BATCH_BYTES // max(1, per_row)))
        batches = source.iter_batches(batch_size=rows, row_groups=[unit.row_group], columns=list(table.columns))
        while (batch := _next(batches, unit)) is not None:
            yield batch


def _next(batches: Iterator[pa.RecordBatch], unit: Unit) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (pa.ArrowInvalid, OSError) as error:
        raise Misconfigured(
            f"{unit.path}: expected readable pages, got damaged ones in row group {unit.row_group} ({str(error)[:99]}); "
            "export the file anew"
        ) from error


def event_days(table: InputTable) -> int:
    """Days between the first and last event time, by the files' statistics; 1 where they have none."""
    if names.EVENT_TIMESTAMP not in table.columns:
        return 1
    system, _ = file_system(table.uri)
    first: list[datetime] = []
    last: list[datetime] = []
    for path in table.files:
        with pq.ParquetFile(system.open_input_file(path)) as source:
            at = source.schema_arrow.get_field_index(names.EVENT_TIMESTAMP)
            for group in range(source.metadata.num_row_groups):
                bounds = _bounds(source.metadata.row_group(group).column(at).statistics)
                if bounds is not None:
                    first.append(bounds[0])
                    last.append(bounds[1])
    return (max(last) - min(first)).days + 1 if first else 1


def _bounds(found: pq.Statistics | None) -> tuple[datetime, datetime] | None:
    """First and last time by a row group's statistics, a naive one as UTC; None where they say no date."""
    try:
        if found is None or not found.has_min_max:
            return None
        first, last = found.min, found.max
    except (OverflowError, ValueError, pa.ArrowInvalid):
        # A time outside the calendar; its row is rejected when it is read.
        return None
    if not (isinstance(first, datetime) and isinstance(last, datetime)):
        return None
    return (first if first.tzinfo else first.replace(tzinfo=UTC)), (last if last.tzinfo else last.replace(tzinfo=UTC))


def column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """A column in the contract's type; all null where the file has none.

    A value that the type cannot hold becomes null, a time beyond it the last or first one, a number the nearest float.
    Text that is not UTF-8 must be found with `without_bad_text` first.

    Raises:
        Misconfigured: the type cannot be converted.
    """
    if field.name not in batch.schema.names:
        return pa.nulls(len(batch), field.type)
    values = batch.column(batch.schema.get_field_index(field.name))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        if pa.types.is_integer(field.type):
            values = _whole(values)
        elif pa.types.is_timestamp(field.type):
            return _micros(values).cast(field.type)
        return values.cast(field.type, safe=not pa.types.is_floating(field.type))
    except pa.ArrowInvalid as error:
        raise Misconfigured(f"column {field.name}: expected {field.type}, got {values.type}: {error}; cast it") from error


def without_bad_text(batch: pa.RecordBatch, columns: Sequence[str]) -> tuple[pa.RecordBatch, NDArray[np.bool_]]:
    """The batch with text that is not UTF-8 as null, and (B,) bool: the rows that had such text in one of `columns`."""
    bad = np.zeros(len(batch), np.bool_)
    for name in columns:
        at = batch.schema.get_field_index(name)
        if at < 0 or not len(batch):
            continue
        wrong = bad_text(batch.column(at))
        if wrong.any():
            bad |= wrong
            fixed = pc.if_else(pa.array(~wrong), batch.column(at), pa.scalar(None, batch.column(at).type))
            batch = batch.set_column(at, name, fixed)
    return batch, bad


def bad_text(values: pa.Array) -> NDArray[np.bool_]:
    """(B,) bool: strings that are not UTF-8; Parquet does not promise that they are."""
    bad = np.zeros(len(values), np.bool_)
    if pa.types.is_dictionary(values.type):
        words = bad_text(values.dictionary)
        at = pc.fill_null(values.indices, 0).to_numpy(zero_copy_only=False)
        return words[at] & values.is_valid().to_numpy(zero_copy_only=False) if len(words) else bad
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        binary = pa.large_binary() if pa.types.is_large_string(values.type) else pa.binary()
        for row, raw in enumerate(values.view(binary).to_pylist()):
            try:
                (raw or b"").decode()
            except UnicodeDecodeError:
                bad[row] = True
    return bad


def _micros(values: pa.Array) -> pa.Array:
    """(B,) int64 microseconds of a time or date column; what overflows becomes the last or first time there is."""
    if pa.types.is_null(values.type):
        return values.cast(pa.int64())
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("ms" if pa.types.is_date64(values.type) else "s"))
    if values.type.unit == "ns":
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    plain = values.cast(pa.int64())
    factor = {"s": 1_000_000, "ms": 1_000, "us": 1}[values.type.unit]
    options = pc.ElementWiseAggregateOptions(skip_nulls=False)
    most = (2**63 - 1) // factor
    held = pc.max_element_wise(pc.min_element_wise(plain, most, options=options), -most, options=options)
    return pc.multiply(held, factor)


def _whole(values: pa.Array) -> pa.Array:
    """Numbers that are no int64 as null."""
    if pa.types.is_uint64(values.type):
        return pc.if_else(pc.less(values, pa.scalar(2**63, pa.uint64())), values, pa.scalar(None, values.type))
    if pa.types.is_decimal(values.type):
        whole = [v is not None and v == v.to_integral_value() and abs(v) < 2**63 for v in values.to_pylist()]
        return pa.array([int(v) if ok else None for v, ok in zip(values.to_pylist(), whole, strict=True)], pa.int64())
    if not pa.types.is_floating(values.type):
        return values
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    whole = pc.and_(pc.is_finite(values), pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63)))
    return pc.if_else(pc.fill_null(whole, False), values, pa.scalar(None, values.type))


def _own_part(system: pafs.FileSystem, base: str, what: str) -> str:
    """``<base>/<what>.parquet`` where `base` is a folder of the documented layout, which holds other tables as well."""
    inside = f"{base}/{what}.parquet"
    return base if system.get_file_info(inside).type == pafs.FileType.NotFound else inside


def _files(system: pafs.FileSystem, base: str, what: str) -> list[str]:
    info = system.get_file_info(base)
    if info.type == pafs.FileType.File:
        return [base]
    if info.type == pafs.FileType.NotFound:
        raise Misconfigured(f"{what} {base}: expected a Parquet file or a folder of them, got nothing; check the path")
    found = system.get_file_info(pafs.FileSelector(base, recursive=True))
    hidden = (".", "_")
    names = [
        i.path
        for i in found
        if i.type == pafs.FileType.File
        and i.path.endswith(".parquet")
        and not any(part.startswith(hidden) for part in i.path[len(base) :].strip("/").split("/"))
    ]
    if not names:
        raise Misconfigured(f"{what} {base}: expected *.parquet files in the folder, got none; check the path")
    return sorted(names)


def _footer(system: pafs.FileSystem, path: str, what: str) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with pq.ParquetFile(system.open_input_file(path)) as source:
            return source.metadata, source.schema_arrow
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Misconfigured(f"{what} {path}: expected Parquet, got something else ({str(error)[:99]}); export it anew") from error
