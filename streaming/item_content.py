"""The content of an item event, read from where the event says."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from encoders import ImageLoader, Item, Reason, Unencodable
from encoders.content import ContentReader
from moontide.events import Content, ItemEvent, parse_content
from streaming.item_plan import Values

_FLOAT: Final = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class Loaded:
    """An item whose image, if any, is bytes, and its feature values."""

    item: Item
    values: Values


def load(event: ItemEvent, loader: ImageLoader) -> Loaded:
    """The content of a create or update; nothing is decoded.

    Raises:
        Unencodable: what it points at is refused, missing or too large, or there is neither image nor text.
        BadEvent: what `content_ref` names is not content.
        Transient: disk or object store failed.
        Misconfigured: an allowed object store whose package is not installed.
    """
    content = event.content or _referenced(event, loader)
    image = loader.read(content.image) if content.image else None
    item = Item(event.item_id, content.title, content.description, content.attributes, image, content.price, content.category)
    if image is None and not item.has_text:
        raise Unencodable(Reason.NO_CONTENT, "expected an image, or a text with more than white space; got neither")
    price = None if content.price is None else _float32(content.price)
    return Loaded(item, (price, content.category, image is not None, item.has_text))


def content_hashes(item: Item, readers: Sequence[ContentReader]) -> list[str]:
    """The content hash for each of S spaces of an item whose image, if any, is bytes; spaces of one scheme share the work."""
    assert not isinstance(item.image, str)
    known: dict[tuple[str, ...], str] = {}
    for reader in readers:
        if reader.scheme not in known:
            known[reader.scheme] = reader.hash(item, item.image)
    return [known[reader.scheme] for reader in readers]


def _referenced(event: ItemEvent, loader: ImageLoader) -> Content:
    if not event.content_ref:
        return Content()
    return parse_content(loader.read(event.content_ref), max_bytes=loader.max_bytes)


def _float32(value: float) -> float:
    try:
        return float(_FLOAT.unpack(_FLOAT.pack(value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
