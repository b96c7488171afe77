"""Fields of an item that an item tower may read, and the hash over some of them.

==================  ============================================================================================
``price``           number; taken as float32, as `item_features` stores it
``category``        text
``attribute.NAME``  text after NAME in the parts of `attributes` between semicolons: ``colour red; size 40``
``has_title``       1 where the text holds more than white space, else 0; likewise ``has_description`` and
                    ``has_attributes``, ``has_text`` (any of the three), and ``has_image`` (one is named)
==================  ============================================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from encoders.item import Item, canonical_text
from moontide.errors import Misconfigured

FIELDS_HASH_VERSION: Final = b"moontide-fields-1"
ATTRIBUTE: Final = "attribute."
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)
_AFTER_NAME: Final = " \t:="

#: A number, a text, or None where the item has no such value.
Value = float | str | None

_KNOWN: Final[dict[str, Callable[[Item], Value]]] = {
    "price": lambda item: _float32(item.price),
    "category": lambda item: canonical_text(item.category) or None,
    "has_title": lambda item: _flag(item.title),
    "has_description": lambda item: _flag(item.description),
    "has_attributes": lambda item: _flag(item.attributes),
    "has_text": lambda item: float(item.has_text),
    "has_image": lambda item: float(bool(item.image)),
}
#: Fields that are a number of themselves; a vocabulary needs one that is not.
NUMBERS: Final = frozenset(_KNOWN) - {"category"}


def require_field(name: str, *, where: str) -> None:
    """Refuse a name that is no field.

    Raises:
        Misconfigured: it is none of the table above.
    """
    if name not in _KNOWN and not (name.startswith(ATTRIBUTE) and canonical_text(name.removeprefix(ATTRIBUTE))):
        raise Misconfigured(f"{where}: expected one of {sorted(_KNOWN)} or {ATTRIBUTE}NAME, got {name!r}")


def read_field(name: str, item: Item) -> Value:
    """The value of a field that `require_field` let pass."""
    known = _KNOWN.get(name)
    return known(item) if known is not None else attribute(item.attributes, name.removeprefix(ATTRIBUTE))


def attribute(attributes: str | None, name: str) -> str | None:
    """What follows `name`, whatever its case, in the first part of `attributes` that begins with it; None: nothing does."""
    wanted = canonical_text(name).casefold()
    for part in canonical_text(attributes).split(";"):
        text = part.strip()
        rest = text[len(wanted) :]
        if text[: len(wanted)].casefold() == wanted and rest[:1] in _AFTER_NAME:
            return rest.strip(_AFTER_NAME) or None
    return None


def number(value: Value) -> float | None:
    """A value as a finite float32, the nearest one; None where it is none."""
    if not isinstance(value, str):
        return value
    try:
        return _float32(float(value))
    except ValueError:
        return None


def hash_fields(item: Item, fields: Sequence[str]) -> str:
    """32 hex digits of blake2b-128 over names and values of `fields`, which the caller has sorted."""
    digest = hashlib.blake2b(FIELDS_HASH_VERSION, digest_size=16)
    for name in fields:
        value = read_field(name, item)
        kind, data = b"-", b""
        if isinstance(value, str):
            kind, data = b"s", value.encode("utf-8", "surrogatepass")
        elif value is not None:
            # -0.0 is 0.0 to a catalog, and has other bits.
            kind, data = b"f", np.float32(value + 0.0).astype("<f4").tobytes()
        for part in (name.encode(), kind, data):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _flag(text: str | None) -> float:
    return float(bool(text) and not str(text).isspace())


def _float32(value: float | None) -> float | None:
    """The nearest finite float32; None for None and for what is no number."""
    if value is None or math.isnan(value):
        return None
    return float(np.float32(min(max(value, -_FLOAT_MAX), _FLOAT_MAX)))
