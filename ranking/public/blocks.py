"""What a reader of a published data set yields: requests with their histories and impressions, a block at a time.

Shapes: R requests, I impressions, H behaviours of all histories end to end. Ids are the data set's own int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from moontide.pit.purchases import DAY

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

#: The published sets have no times. A part of the split is a day of its own, so that a split by time gives the parts back.
PARTS: Final[Mapping[str, int]] = {"train": 0, "validation": DAY, "test": 2 * DAY}
#: First moments of validation and test, and the end, as `ranking.config.DataConfig.days` takes them.
DAYS: Final = ("1970-01-02", "1970-01-03", "1970-01-04")
#: Of the users of the training files, one in so many is validation.
VALIDATION: Final = 20


@dataclass(frozen=True, slots=True)
class Block:
    """Some requests. Behaviours of one history are newest last; an id of 0 is padding and is not in it.

    Attributes:
        user: (R,) int64.
        time: (R,) int64, one of `PARTS`.
        known: (R,) int64, behaviours that the file has, those cut off too.
        history: (H,) int64 items; `offsets` (R + 1,) int64.
        request: (I,) int64 rows of the requests; rises, each at least once.
        item: (I,) int64.
        label: (I,) float32.
        scalars: (I,) float32 by name.
    """

    user: Ints
    time: Ints
    known: Ints
    history: Ints
    offsets: Ints
    request: Ints
    item: Ints
    label: Floats
    scalars: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a file, each with a history of its own: user, item (B,) int64, label (B,) float32, history lists as `Block`'s."""

    user: Ints
    item: Ints
    label: Floats
    history: Ints
    offsets: Ints
    scalars: Mapping[str, Floats]


def users_of(user: Ints, percent: int) -> NDArray[np.bool_]:
    """(B,) whether a user is in a share of `percent` of 100: ``(user & 0x7FFFFFFF) % 100 < percent``.

    Raises:
        Misconfigured: not 1 to 100.
    """
    if not 1 <= percent <= 100:
        raise Misconfigured(f"users: expected a share of 1 to 100 percent, got {percent}")
    return np.asarray((user & 0x7FFFFFFF) % 100 < percent)


def validation_users(user: Ints) -> NDArray[np.bool_]:
    """(B,) whether a user of the training files is validation: ``(user & 0x7FFFFFFF) // 100 % VALIDATION == 0``.

    Independent of `users_of`, so any share has the same share of validation.
    """
    return np.asarray((user & 0x7FFFFFFF) // 100 % VALIDATION == 0)


def block_of(rows: Rows, part: str, *, length: int) -> Block:
    """Rows as requests: neighbours of one user with one history are one request.

    Args:
        rows: B rows in file order.
        part: ``train`` (validation users become validation) or ``test``.
        length: L, behaviours kept, the newest.
    """
    first = _starts(rows)
    starts = np.flatnonzero(first)
    user = rows.user[starts]
    spans = [rows.history[a:b] for a, b in zip(rows.offsets[starts], rows.offsets[starts + 1], strict=True)]
    spans = [span[span != 0] for span in spans]
    kept = [span[max(0, len(span) - length) :] for span in spans]
    time = np.full(len(starts), PARTS[part], np.int64)
    if part == "train":
        time[validation_users(user)] = PARTS["validation"]
    return Block(
        user=user,
        time=time,
        known=np.array([len(span) for span in spans], np.int64),
        history=np.concatenate([np.zeros(0, np.int64), *kept]),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum([len(span) for span in kept], dtype=np.int64)]),
        request=np.cumsum(first, dtype=np.int64) - 1,
        item=rows.item,
        label=rows.label,
        scalars=rows.scalars,
    )


def _starts(rows: Rows) -> NDArray[np.bool_]:
    """(B,) where another user or another history begins."""
    first = np.ones(len(rows.user), bool)
    for at in np.flatnonzero(rows.user[1:] == rows.user[:-1]) + 1:
        before, here, after = rows.offsets[at - 1 : at + 2]
        first[at] = not np.array_equal(rows.history[before:here], rows.history[here:after])
    return first
