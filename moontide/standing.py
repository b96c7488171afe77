"""What becomes of each catalog row or event, against where its item stands: pure functions over columns (B rows)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class Step(IntEnum):
    """What becomes of a row in the embedding table."""

    CHECK = 0
    """A live vector is there: equal content needs no encoding."""
    ENCODE = 1
    """No vector, or other content."""
    REUSE = 2
    """Equal content under a newer version or time: a new row with the vector that is there."""
    TOMBSTONE = 3
    """A delete that is not recorded yet."""
    UNCHANGED = 4
    """Recorded already."""
    STALE = 5
    """The table is ahead of this row."""
    REJECTED = 6
    """The content cannot be encoded."""


class Standing(NamedTuple):
    """Where rows stand against the heads of their items.

    Attributes:
        known: (B,) bool, the item has a head.
        newer: (B,) bool, the row is above its head by (version, time); true where there is none.
        equal: (B,) bool, the row has its head's version and time.
        behind: (B,) bool, the row has a lower version.
        event_us: (B,) int64, the row's time, raised to the head's + 1 where a higher version came with an older clock.
    """

    known: NDArray[np.bool_]
    newer: NDArray[np.bool_]
    equal: NDArray[np.bool_]
    behind: NDArray[np.bool_]
    event_us: NDArray[np.int64]


def standing(version: NDArray[np.int64], event_us: NDArray[np.int64], head_version: pa.Array, head_us: pa.Array) -> Standing:
    """Compare rows with heads; the heads are null where an item has none."""
    return compare(version, event_us, valid(head_version), integers(head_version), integers(head_us))


def compare(
    version: NDArray[np.int64],
    event_us: NDArray[np.int64],
    known: NDArray[np.bool_],
    old_version: NDArray[np.int64],
    old_us: NDArray[np.int64],
) -> Standing:
    """`standing` of rows against heads in numpy columns; what a head that is not `known` holds does not matter."""
    ahead, same = version > old_version, version == old_version
    raised = np.where(known & ahead & (event_us <= old_us), old_us + 1, event_us)
    newer = ~known | ahead | (same & (event_us > old_us))
    return Standing(known, newer, known & same & (event_us == old_us), known & (version < old_version), raised)


def first_steps(at: Standing, deleted: NDArray[np.bool_], head_deleted: pa.Array) -> NDArray[np.int8]:
    """(B,) `Step` of each row, before any content is looked at; `head_deleted` is null where an item has no head."""
    return steps_before_content(at, deleted, flags(head_deleted))


def steps_before_content(at: Standing, deleted: NDArray[np.bool_], head_deleted: NDArray[np.bool_]) -> NDArray[np.int8]:
    """`first_steps` against heads in numpy columns."""
    gone = at.known & head_deleted
    past = ~at.newer & ~at.equal
    out = np.full(len(deleted), Step.CHECK, np.int8)
    out[~at.known | gone] = Step.ENCODE
    out[past & gone] = Step.STALE
    out[deleted & (at.newer | (at.equal & ~gone))] = Step.TOMBSTONE
    out[deleted & ~at.newer & ~(at.equal & ~gone)] = Step.UNCHANGED
    out[at.behind] = Step.STALE
    return out


def checked(at: Standing, row: int, *, same_content: bool) -> Step:
    """The step of a `CHECK` row once its content hash is known."""
    if same_content:
        return Step.REUSE if at.newer[row] else Step.UNCHANGED
    return Step.ENCODE if at.newer[row] or at.equal[row] else Step.STALE


def integers(values: pa.Array) -> NDArray[np.int64]:
    """(B,) int64; null is 0."""
    out: NDArray[np.int64] = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return out


def valid(values: pa.Array) -> NDArray[np.bool_]:
    """(B,) bool: not null."""
    out: NDArray[np.bool_] = values.is_valid().to_numpy(zero_copy_only=False)
    return out


def flags(values: pa.Array) -> NDArray[np.bool_]:
    """(B,) bool; null is false."""
    out: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return out
