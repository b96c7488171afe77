"""The embedding log of one space, as of any moment (V rows of the log, D dims).

A row counts once it had happened and had reached us, ``max(event_timestamp, content_known_at)``; when it was encoded never
counts, or a new space could not be trained on the past. The join moves row numbers; vectors are gathered once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.embeddings import Embeddings, inverse_norms
from moontide.errors import Misconfigured, SpaceMismatch
from moontide.pit.arrays import ArrayFile, open_arrays, save_arrays
from moontide.pit.ids import Ids
from moontide.pit.layout import space_from, space_record
from moontide.pit.steps import Steps
from moontide.spaces import EmbeddingSpace

Ints = NDArray[np.int64]
#: Columns of the log that are read, in the types of `schemas.ITEM_EMBEDDING`.
LOG_COLUMNS: Final = (
    "item_id", "source_version", "event_timestamp", "encoded_at", "content_known_at", "content_hash", "deleted", "codes",
    "scale", "space",
)  # fmt: skip
_TIMES: Final = ("event_timestamp", "encoded_at", "content_known_at")
_KEPT: Final = ("item", "source_version", "event_timestamp", "scale", "inv_norm", "codes")


class VersionLog:
    """Vectors of one space with the times they were valid at.

    Attributes:
        space: of every vector.
        item: (V,) int64 rows of the item ids it was built with.
        source_version, event_timestamp: (V,) int64 of each row.
    """

    def __init__(self, space: EmbeddingSpace, arrays: dict[str, NDArray[Any]], steps: Steps) -> None:
        self.space = space
        self.item, self.source_version, self.event_timestamp = (arrays[name] for name in _KEPT[:3])
        inv_norm = arrays["inv_norm"]
        self._arrays, self._steps = arrays, steps
        self._vectors = Embeddings(space, arrays["codes"], arrays["scale"], inv_norm, inv_norm > 0)

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def build(cls, rows: Iterable[pa.Table], space: EmbeddingSpace, items: Ids, *, folder: Path | None = None) -> VersionLog:
        """Read a log. Rows of other items are left out; the same row twice counts once.

        Args:
            rows: tables with `LOG_COLUMNS`, such as `OfflineTables.scan` yields.
            space: of every row; a prefix is cut from its parent's rows.
            items: which items are wanted.
            folder: where it is kept, the codes without ever being whole in memory; None: in memory.

        Raises:
            SpaceMismatch: a row of another space, or of another width.
            Misconfigured: a content hash that is not 32 hex digits.
        """
        codes = ArrayFile(None if folder is None else folder / "codes.npy", space.dim)
        parts = [_read(table, space, items, codes) for table in rows if table.num_rows]
        names = ("item", "source_version", *_TIMES, "high", "low", "live", "scale", "inv_norm")
        found = {name: np.concatenate([part[name] for part in parts]) for name in names} if parts else _nothing()
        order = [found[name] for name in ("source_version", "event_timestamp", "encoded_at", "high", "low")]
        eligible = np.maximum(found["event_timestamp"], found["content_known_at"])
        steps = Steps.of(found["item"], len(items), eligible, order, found["live"])
        made = cls(space, {name: found[name] for name in _KEPT[:-1]} | {"codes": codes.close()}, steps)
        if folder is not None:
            made._save(folder)
        return made

    @classmethod
    def open(cls, folder: Path) -> VersionLog:
        """What `build` kept in a folder, read-only and mapped into memory.

        Raises:
            Misconfigured: nothing there.
        """
        arrays, meta = open_arrays(folder)
        steps = Steps(open_arrays(folder / "steps")[0])
        return cls(space_from(meta), arrays, steps)

    def _save(self, folder: Path) -> None:
        save_arrays(folder / "steps", self._steps.arrays())
        save_arrays(folder, {name: self._arrays[name] for name in _KEPT[:-1]}, space_record(self.space))

    @property
    def vectors(self) -> Embeddings:
        """Every row's vector, without ids; tombstones and zero vectors are not present."""
        return self._vectors

    def at(self, items: Ints, times: Ints) -> Ints:
        """(Q,) int64 rows of the vectors valid at each time (inclusive); -1: none, or item -1."""
        return self._steps.at(items, times)


def _read(table: pa.Table, space: EmbeddingSpace, items: Ids, codes: ArrayFile) -> dict[str, NDArray[Any]]:
    """The wanted rows of a table as arrays; their codes go to `codes`."""
    others = [name for name in pc.unique(table["space"]).to_pylist() if name != space.stored_id]
    if others:
        raise SpaceMismatch(f"embedding log: expected rows of space {space.stored_id}, got {others}; read one space's log")
    item = items.rows(table["item_id"])
    if not (item >= 0).all():
        table, item = table.filter(pa.array(item >= 0)), item[item >= 0]
    matrix = _codes(table["codes"], space)
    scale = table["scale"].to_numpy().astype(np.float32)
    inv_norm = inverse_norms(matrix)
    deleted = table["deleted"].to_numpy()
    inv_norm[deleted] = 0
    codes.append(matrix)
    high, low = _hashes(table["content_hash"])
    times = {name: table[name].cast(pa.int64()).to_numpy() for name in _TIMES}
    version = table["source_version"].to_numpy()
    rest = {"item": item, "source_version": version, "high": high, "low": low, "scale": scale, "inv_norm": inv_norm}
    return {**times, **rest, "live": inv_norm > 0}


def _codes(column: pa.ChunkedArray, space: EmbeddingSpace) -> NDArray[np.int8]:
    """(B, D) codes, cut where the space is a prefix."""
    width = space.prefix_of or space.dim
    if not len(column):
        return np.zeros((0, space.dim), np.int8)
    try:
        fixed = column.combine_chunks().cast(pa.binary(width))
    except pa.ArrowInvalid as error:
        raise SpaceMismatch(
            f"embedding log of {space.stored_id}: expected {width} codes a row, got other widths ({error}); "
            "give the other encoder a space version of its own"
        ) from error
    raw = np.frombuffer(fixed.buffers()[1], np.int8, count=len(fixed) * width, offset=fixed.offset * width)
    return np.ascontiguousarray(raw.reshape(len(fixed), width)[:, : space.dim])


def _hashes(column: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(B,) the two halves of each hash, ordered as the hex digits are."""
    try:
        raw = bytes.fromhex("".join(column.to_pylist()))
        halves = np.frombuffer(raw, ">u8").reshape(len(column), 2).astype(np.uint64)
    except (ValueError, TypeError) as error:
        raise Misconfigured(f"embedding log: content_hash: expected 32 hex digits in every row, got others: {error}") from error
    return halves[:, 0], halves[:, 1]


def _nothing() -> dict[str, NDArray[Any]]:
    whole = {name: np.zeros(0, np.int64) for name in ("item", "source_version", *_TIMES, "high", "low")}
    return {**whole, "live": np.zeros(0, bool), "scale": np.zeros(0, np.float32), "inv_norm": np.zeros(0, np.float32)}
