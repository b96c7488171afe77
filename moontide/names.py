"""Every name that two programs must agree on, written once.

`item_id` and `user_id` are strings of 1 to 64 characters of ``[A-Za-z0-9._:-]``; everything else is rejected at the edge,
because ids travel into file names, index filters and store keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.errors import Poison

ITEM: Final = "item"
USER: Final = "user"
ITEM_ID: Final = "item_id"
USER_ID: Final = "user_id"
EVENT_TIMESTAMP: Final = "event_timestamp"
SOURCE_VERSION: Final = "source_version"
DELETED: Final = "deleted"

PROJECT: Final = "moontide"
USER_SEQUENCE: Final = "user_sequence"
#: Items lately shown to a user: a sequence of its own, which no tier is computed from.
USER_SERVED: Final = "user_served"
ITEM_FEATURES: Final = "item_features"
EMBEDDING_VIEW_PREFIX: Final = "item_embedding__"
SIMTIER_VIEW_PREFIX: Final = "user_item_simtier__"
COLLECTION_PREFIX: Final = "items__"

TOPIC_ITEM_EVENTS: Final = "item-events"
TOPIC_BEHAVIOUR_EVENTS: Final = "behaviour-events"
TOPIC_ITEM_EMBEDDINGS: Final = "item-embeddings"
TOPIC_DEAD_LETTERS: Final = "moontide-dead-letters"

ID_PATTERN: Final = r"[A-Za-z0-9._:\-]{1,64}"
_ID = re.compile(ID_PATTERN)
_ID_BYTES: Final = bytes(byte for byte in range(128) if _ID.fullmatch(chr(byte)))
_ID_SIZES: Final = frozenset(range(1, 65))
_SPACE_NAME = re.compile(r"[a-z][a-z0-9]{0,23}")


def is_id(value: object) -> bool:
    """Whether `value` may be an `item_id` or `user_id`."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def require_ids(values: Iterable[str], *, what: str = ITEM_ID) -> list[str]:
    """`values` as a list, every one a valid id.

    Raises:
        Poison: the first value that is not an id, shown shortened.
    """
    ids = list(values)
    if _all_ids(ids):
        return ids
    for value in ids:
        if not is_id(value):
            raise Poison(
                f"{what}: expected 1 to 64 characters of [A-Za-z0-9._:-], got {shown(value)}; "
                "map your keys to such ids before they enter moontide"
            )
    return ids


def shown(value: object) -> str:
    """What stands in the text of an error for `value`: the value, shortened, or the type of one whose text may have no end."""
    return repr(str(value)[:80]) if isinstance(value, str | int | float | None) else type(value).__name__


def _all_ids(values: list[str]) -> bool:
    """Whether all are ids, looked at together: a match for each costs ten times as much. Says no where it cannot tell."""
    try:
        text = "".join(values).encode("ascii")
        return not text.translate(None, _ID_BYTES) and set(map(len, values)) <= _ID_SIZES
    except (TypeError, UnicodeEncodeError):
        return False


def valid_ids(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(B,) bool: which strings of an Arrow column are valid ids; null is not."""
    ok = pc.match_substring_regex(column, f"^{ID_PATTERN}$")
    flags: np.ndarray = pc.fill_null(ok, False).to_numpy(zero_copy_only=False)
    return flags


def is_space_name(value: str) -> bool:
    """Whether `value` may name a family of embedding spaces (``moon``)."""
    return _SPACE_NAME.fullmatch(value) is not None


def embedding_view(space_id: str) -> str:
    """Feast view of a space's item embeddings."""
    return EMBEDDING_VIEW_PREFIX + space_id


def simtier_view(spec_id: str) -> str:
    """Feast view of tiers computed ahead for one `SimTierSpec`."""
    return SIMTIER_VIEW_PREFIX + spec_id


def collection(space_id: str) -> str:
    """Milvus collection of a space."""
    return COLLECTION_PREFIX + space_id


def collection_alias(space_name: str) -> str:
    """Milvus alias that follows the served space of one family."""
    return COLLECTION_PREFIX + space_name
