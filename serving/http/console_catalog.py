"""Titles and pictures of items for people, from the catalog they came from, in the memory of a few batches however large it is.

Every search and look-up scans the file, in the columns it needs: row groups that cannot hold the ids asked for are skipped, so a
catalog ordered by id answers fastest. Titles come from outside and are handed on as they are: whoever shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from moontide import names
from moontide.errors import Misconfigured

_BATCH_ROWS: Final = 8_192
#: Pictures are up to 10 MB each.
_PICTURE_ROWS: Final = 8
_BUFFER_BYTES: Final = 1 << 20
_MOST_WORDS: Final = 8


@dataclass(frozen=True, slots=True)
class Card:
    """What people know an item by; `pictured`: the catalog names a picture of it, or may hold one."""

    item_id: str
    title: str = ""
    category: str = ""
    pictured: bool = False


class Catalog:
    """One Parquet file, or a folder of them, with the columns of `moontide.schemas.CATALOG`; opened anew by every call.

    Of the versions of one item the highest `source_version` counts, and of equal ones the last; a deleted item is not there.

    Args:
        path: where it lies.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def search(self, text: str, most: int) -> list[Card]:
        """Items whose id begins with `text`, then those with every word of it in the title (any case); in the file's order.

        Raises:
            Misconfigured: no such file, no Parquet, or no such columns.
        """
        wanted, words = text.strip(), text.split()[:_MOST_WORDS]
        if not wanted:
            return []
        by_id: list[str] = []
        by_title: list[str] = []
        for batch in self._batches([names.ITEM_ID, "title"]):
            by_id += _ids(batch, pc.starts_with(batch[names.ITEM_ID], wanted))
            by_title += _ids(batch, _all_words(batch["title"], words))
            del by_title[most:]
            if len(by_id) >= most:
                break
        found = list(dict.fromkeys([*by_id, *by_title]))[:most]
        cards = self.cards(found)
        return [cards[item] for item in found if item in cards]

    def cards(self, item_ids: Sequence[str]) -> dict[str, Card]:
        """The cards of those that are there.

        Raises:
            Misconfigured: as `search`.
        """
        rows = self._newest(item_ids, [names.ITEM_ID, "title", "category", "image", "source_version", "deleted"])
        bytes_too = "image_bytes" in self._dataset().schema.names
        return {
            item: Card(item, row["title"] or "", row["category"] or "", bool(row["image"]) or bytes_too)
            for item, row in rows.items()
        }

    def picture(self, item_id: str) -> str | bytes | None:
        """Where its picture lies, or the picture's bytes; None where it has none.

        Raises:
            Misconfigured: as `search`.
        """
        version = [names.ITEM_ID, "source_version", "deleted"]
        row = self._newest([item_id], [*version, "image"]).get(item_id)
        if row is None or row["image"] or "image_bytes" not in self._dataset().schema.names:
            return None if row is None else row["image"] or None
        found = self._newest([item_id], [*version, "image_bytes"], rows=_PICTURE_ROWS).get(item_id, {})
        return found.get("image_bytes") or None

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a file of it does; of no file where there is none."""
        files = sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path]
        found = []
        for file in files:
            with suppress(FileNotFoundError):  # replaced just now
                stat = file.stat()
                found.append((file.name, stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    def ids(self) -> Iterator[list[str]]:
        """Every item id that a row names and does not delete, in batches; one may come twice.

        Raises:
            Misconfigured: as `search`.
        """
        for batch in self._batches([names.ITEM_ID, "deleted"]):
            yield _ids(batch, pc.invert(pc.fill_null(batch["deleted"], False)))

    def _newest(self, item_ids: Sequence[str], columns: list[str], *, rows: int = _BATCH_ROWS) -> dict[str, dict[str, Any]]:
        wanted = list(dict.fromkeys(item_ids))
        newest: dict[str, dict[str, Any]] = {}
        if not wanted:
            return newest
        for batch in self._batches(columns, among=wanted, rows=rows):
            for row in batch.to_pylist():
                before = newest.get(row[names.ITEM_ID])
                if before is None or (row["source_version"] or 0) >= (before["source_version"] or 0):
                    newest[row[names.ITEM_ID]] = row
        return {item: newest[item] for item in wanted if item in newest and not newest[item]["deleted"]}

    def _batches(
        self, columns: list[str], *, among: Sequence[str] | None = None, rows: int = _BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Rows of the columns, null where the file lacks one; of the items `among`, if it is given."""
        dataset = self._dataset()
        have = [name for name in columns if name in dataset.schema.names]
        chosen = None if among is None else pc.field(names.ITEM_ID).isin(list(among))
        try:
            for batch in dataset.to_batches(
                columns=have, filter=chosen, batch_size=rows, batch_readahead=1, fragment_readahead=1, use_threads=False
            ):
                yield _filled(batch, columns)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _dataset(self) -> Any:
        # It brings pandas along: a worker whose console nobody opens is without both.
        import pyarrow.dataset as ds

        options = ds.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        try:
            found = ds.dataset(self.path, format=ds.ParquetFileFormat(default_fragment_scan_options=options))
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        if names.ITEM_ID not in found.schema.names or found.schema.field(names.ITEM_ID).type != pa.string():
            raise self._unreadable(f"columns {found.schema.names}")
        return found

    def _unreadable(self, got: object) -> Misconfigured:
        return Misconfigured(
            f"{self.path}: expected a catalog in Parquet with item_id: string, got: {got}; see docs/reference/schemas.md"
        )


def _filled(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    types = {"deleted": pa.bool_(), "source_version": pa.int64(), "image_bytes": pa.binary()}
    arrays = [
        batch[name] if name in batch.schema.names else pa.nulls(len(batch), types.get(name, pa.string())) for name in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, columns)


def _all_words(titles: pa.Array, words: Sequence[str]) -> pa.Array:
    return reduce(pc.and_kleene, (pc.match_substring(titles, word, ignore_case=True) for word in words))


def _ids(batch: pa.RecordBatch, mask: pa.Array) -> list[str]:
    found: list[str] = batch[names.ITEM_ID].filter(mask, null_selection_behavior="drop").to_pylist()
    return [item for item in found if item is not None]
