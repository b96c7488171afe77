"""Where the items of one batch stand, as columns that the batch moves on: what a read found, then what each event left.

I items; D dims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moontide.order import HASH_BYTES
from moontide.records import NO_CONTENT_HASH
from moontide.spaces import EmbeddingSpace


class SpaceHeads:
    """Embedding records of I items in one space; what an item that is not `known` holds does not matter.

    Args:
        space: the space.
        numbers: item id -> row, for the I items.
        records: rows of `schemas.ITEM_EMBEDDING`, one per item that has one.

    Attributes:
        known, deleted: (I,) bool.
        version, event_us, encoded_us, known_us: (I,) int64.
        hashes: (I,) 32 hex digits.
        codes: (I, D) int8; scale: (I,) float32.
    """

    def __init__(self, space: EmbeddingSpace, numbers: Mapping[str, int], records: pa.Table) -> None:
        count, at = len(numbers), _places(numbers, records)
        self.space = space
        self.known = np.zeros(count, np.bool_)
        self.known[at] = True
        self.deleted = _spread(records, "deleted", at, np.zeros(count, np.bool_))
        self.version = _spread(records, "source_version", at, np.zeros(count, np.int64))
        self.event_us = _spread(records, "event_timestamp", at, np.zeros(count, np.int64))
        self.encoded_us = _spread(records, "encoded_at", at, np.zeros(count, np.int64))
        self.known_us = _spread(records, "content_known_at", at, np.zeros(count, np.int64))
        self.scale = _spread(records, "scale", at, np.zeros(count, np.float32))
        self.hashes = np.full(count, NO_CONTENT_HASH, f"U{2 * HASH_BYTES}")
        self.codes = np.zeros((count, space.dim), np.int8)
        if len(at):
            self.hashes[at] = records.column("content_hash").to_pylist()
            raw = b"".join(records.column("codes").to_pylist())
            self.codes[at] = np.frombuffer(raw, np.int8).reshape(len(at), space.dim)


class FeatureHeads:
    """`item_features` records of I items.

    Attributes:
        known, deleted: (I,) bool.
        version, event_us, created_us: (I,) int64.
        values: I of `(price, category, has_image, has_text)`.
    """

    def __init__(self, numbers: Mapping[str, int], records: pa.Table) -> None:
        count, at = len(numbers), _places(numbers, records)
        self.known = np.zeros(count, np.bool_)
        self.known[at] = True
        self.deleted = _spread(records, "deleted", at, np.zeros(count, np.bool_))
        self.version = _spread(records, "source_version", at, np.zeros(count, np.int64))
        self.event_us = _spread(records, "event_timestamp", at, np.zeros(count, np.int64))
        self.created_us = _spread(records, "created", at, np.zeros(count, np.int64))
        self.values: list[Any] = [None] * count
        columns = [records.column(name).to_pylist() for name in ("price", "category", "has_image", "has_text")]
        for place, values in zip(at.tolist(), zip(*columns, strict=True), strict=True):
            self.values[place] = values


class Heads:
    """The heads of every live space and of the features."""

    def __init__(self, spaces: tuple[SpaceHeads, ...], features: FeatureHeads) -> None:
        self.spaces = spaces
        self.features = features


def _places(numbers: Mapping[str, int], records: pa.Table) -> NDArray[np.int64]:
    return np.array([numbers[item] for item in records.column("item_id").to_pylist()], np.int64)


def _spread(records: pa.Table, name: str, at: NDArray[np.int64], blank: NDArray[Any]) -> NDArray[Any]:
    """`blank` with the values of one column, none of them null, in their places."""
    column = records.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    blank[at] = column.to_numpy()
    return blank
