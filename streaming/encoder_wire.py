"""What goes between the consumer and its encoder process: frames of plain bytes, read as if a stranger had written them.

A frame is `HEADER` (magic, kind, sequence number, length of the body) and a body. B items, N of them encoded, D the dim.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders import Item, Reason
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace
from streaming.encoding import Fault

HEADER: Final = struct.Struct("<4sBIQ")
MAGIC: Final = b"MTE1"
#: Items per frame; a longer call goes in several.
MAX_ITEMS: Final = 1_024
MAX_DETAIL: Final = 400
MAX_NOTE: Final = 4_096
#: States of one item's byte in the shared marks.
STARTED, DONE = 1, 2

_COUNT: Final = struct.Struct("<I")
_ANSWER: Final = struct.Struct("<III")
_REJECT: Final = struct.Struct("<IHH")
_ABSENT: Final = -1
_REASONS: Final = frozenset([*map(str, Reason), str(Fault.VECTOR_NOT_FINITE), str(Fault.ENCODER_OUT_OF_MEMORY)])


class Kind(IntEnum):
    """What a frame is: `ITEMS` to the child, the others from it."""

    ITEMS = 1
    HELLO = 2
    """The child is ready; the body is its space."""
    VECTORS = 3
    MISCONFIGURED = 4
    """It cannot start, and starting again will not help; the body says why."""
    OUT_OF_MEMORY = 5
    FAILED = 6
    """Anything else went wrong; the body is the class of the error."""


_KINDS: Final = frozenset(int(kind) for kind in Kind)


class Garbled(Exception):
    """Bytes that no sound child writes."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Rows that were encoded, rising, (N, D) codes, (N,) scales, and the other rows with reason and detail."""

    rows: tuple[int, ...]
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    rejects: dict[int, tuple[str, str]]


def frame(kind: Kind, sequence: int, body: bytes) -> bytes:
    """A whole frame."""
    return HEADER.pack(MAGIC, kind, sequence, len(body)) + body


def read_header(data: bytes, *, limit: int) -> tuple[Kind, int, int]:
    """Kind, sequence number and length of the body, or `Garbled`."""
    magic, kind, sequence, length = HEADER.unpack(data)
    if magic != MAGIC or kind not in _KINDS or length > limit:
        raise Garbled("not a frame, or one too long")
    return Kind(kind), sequence, length


def pack_items(items: Sequence[Item], sequence: int) -> list[bytes]:
    """A frame of `ITEMS` as pieces to be written one after the other; ids stay behind: a row is named by its place.

    Raises:
        ValueError: an image that is not bytes.
    """
    texts: list[bytes | None] = [
        None if text is None else text.encode("utf-8", "surrogatepass")
        for item in items
        for text in (item.title, item.description, item.attributes, item.category)
    ]
    images: list[bytes | None] = []
    for item in items:
        if isinstance(item.image, str):
            raise ValueError("pack_items: expected images as bytes, got a path; read it first")
        images.append(item.image)
    lengths = [_ABSENT if part is None else len(part) for part in (*texts, *images)]
    # A price is a number: NaN, which no event may hold, says that there is none.
    prices = np.array([np.nan if item.price is None else item.price for item in items], "<f8").tobytes()
    head = _COUNT.pack(len(items)) + struct.pack(f"<{len(lengths)}q", *lengths) + prices
    small = head + b"".join(filter(None, texts))
    pictures = [image for image in images if image]
    return [HEADER.pack(MAGIC, Kind.ITEMS, sequence, len(small) + sum(map(len, pictures))) + small, *pictures]


def unpack_items(body: bytes) -> list[Item]:
    """The items of a frame, their ids being their rows."""
    (count,) = _COUNT.unpack_from(body)
    lengths = struct.unpack_from(f"<{5 * count}q", body, _COUNT.size)
    at, parts = _COUNT.size + 8 * len(lengths), []
    prices = [None if np.isnan(price) else price for price in np.frombuffer(body, "<f8", count, at).tolist()]
    at += 8 * count
    for length in lengths:
        parts.append(None if length == _ABSENT else body[at : at + length])
        at += max(length, 0)
    texts = [None if part is None else part.decode("utf-8", "surrogatepass") for part in parts[: 4 * count]]
    images = parts[4 * count :]
    made = []
    for row in range(count):
        title, description, attributes, category = texts[4 * row : 4 * row + 4]
        made.append(Item(str(row), title, description, attributes, images[row], prices[row], category))
    return made


def pack_answer(answer: Answer) -> bytes:
    """The body of `VECTORS`."""
    parts = [
        _ANSWER.pack(len(answer.rows), answer.codes.shape[1], len(answer.rejects)),
        np.array(answer.rows, "<u4").tobytes(),
        answer.scale.astype("<f4").tobytes(),
        answer.codes.tobytes(),
    ]
    for row, (reason, detail) in answer.rejects.items():
        words = reason.encode(), detail.encode("utf-8", "replace")[:MAX_DETAIL]
        parts += [_REJECT.pack(row, *map(len, words)), *words]
    return b"".join(parts)


def answer_limit(count: int, dim: int) -> int:
    """Longest body that may answer `count` items."""
    return max(MAX_NOTE, _ANSWER.size + count * (8 + dim + _REJECT.size + MAX_DETAIL + 64))


def unpack_answer(body: bytes, count: int, dim: int) -> Answer:
    """The answer to `count` items, each in it once.

    Raises:
        Garbled: sizes, rows, codes, scales or reasons that cannot be.
    """
    try:
        answer = _unpack_answer(body, dim)
    except (struct.error, ValueError) as error:
        raise Garbled("an answer cut short") from error
    rows = answer.rows
    if sorted([*rows, *answer.rejects]) != list(range(count)) or list(rows) != sorted(rows):
        raise Garbled("rows other than those sent")
    if not np.isfinite(answer.scale).all() or (answer.scale < 0).any() or (answer.codes == -128).any():
        raise Garbled("codes or scales that no quantiser makes")
    return answer


def _unpack_answer(body: bytes, dim: int) -> Answer:
    found, width, refused = _ANSWER.unpack_from(body)
    if width != dim:
        raise ValueError("another dim")
    at = _ANSWER.size
    rows = np.frombuffer(body, "<u4", found, at)
    scale = np.frombuffer(body, "<f4", found, at + 4 * found)
    codes = np.frombuffer(body, np.int8, found * dim, at + 8 * found).reshape(found, dim)
    at += found * (8 + dim)
    rejects: dict[int, tuple[str, str]] = {}
    for _ in range(refused):
        row, reason_size, detail_size = _REJECT.unpack_from(body, at)
        words = body[at + _REJECT.size : at + _REJECT.size + reason_size + detail_size]
        reason = words[:reason_size].decode("ascii")
        if reason not in _REASONS or len(words) != reason_size + detail_size or row in rejects:
            raise ValueError("an unknown reason")
        rejects[row] = (reason, clean(words[reason_size:]))
        at += _REJECT.size + len(words)
    if at != len(body):
        raise ValueError("more than an answer")
    return Answer(tuple(rows.tolist()), codes.copy(), scale.astype(np.float32), rejects)


def pack_space(space: EmbeddingSpace) -> bytes:
    """The body of `HELLO`."""
    body = {"name": space.name, "version": space.version, "dim": space.dim, "encoder_digest": space.encoder_digest}
    return json.dumps(body).encode()


def unpack_space(body: bytes) -> EmbeddingSpace:
    """The space a child says it encodes into, or `Garbled`."""
    try:
        known = json.loads(body)
        return EmbeddingSpace(
            str(known["name"]), int(known["version"]), int(known["dim"]), encoder_digest=str(known["encoder_digest"])
        )
    except (ValueError, KeyError, TypeError, RecursionError, Misconfigured) as error:
        raise Garbled("a greeting without a space") from error


def clean(data: bytes, limit: int = MAX_DETAIL) -> str:
    """Printable text of bytes that came from the child, in one line."""
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:limit].strip()
