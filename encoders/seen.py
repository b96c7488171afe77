"""Whether a folder's items are those that an encoder was trained on: by the items, not by the name of the folder.

A manifest keeps the least hashes of each training set's items: enough to tell a part, a whole or a larger edition of it from
other data, and no item can be read from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from encoders.item import Item

#: Hashes that are kept of a data set.
SAMPLE: Final = 256
_DIGITS: Final = 16


def key_of(item: Item, label: str | None) -> str:
    """What makes an item the same one in another edition of its data set."""
    return "\0".join((item.item_id, item.title or "", label or ""))


def sample_of(keys: Iterable[str]) -> list[str]:
    """The `SAMPLE` least hashes (fewer of fewer keys), 16 hex digits each, rising."""
    return sorted({_hash(key) for key in keys})[:SAMPLE]


def share_seen(keys: Iterable[str], sample: Sequence[str]) -> float | None:
    """Share in 0..1 of `keys` that belong to the data set that `sample` was taken of.

    Only keys that the sample reaches are looked at, so it is an estimate unless the data set is small; None where it
    reaches none.
    """
    # A sample that is not full holds every key there was.
    last = max(sample) if len(sample) >= SAMPLE else "f" * _DIGITS
    reached = {found for found in map(_hash, keys) if found <= last}
    return len(reached & set(sample)) / len(reached) if reached and sample else None


def _hash(key: str) -> str:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGITS // 2).hexdigest()
