"""What goes into an encoder, and the reasons for which an item is turned away."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from moontide.errors import Poison

TITLE_MAX_CHARS: Final = 10_000
HASH_VERSION: Final = b"moontide-content-1"


class Reason(StrEnum):
    """Why an item cannot be encoded. Values are stable: they label metrics and dead letters."""

    NO_CONTENT = "no_content"
    TITLE_TOO_LONG = "title_too_long"
    IMAGE_MISSING = "image_missing"
    IMAGE_REFUSED = "image_refused"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_UNREADABLE = "image_unreadable"
    MODALITY_UNSUPPORTED = "modality_unsupported"


class Unencodable(Poison):
    """An item that can never be encoded as it is. `reason` says why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Item:
    """One item's content; any field but the id may be None, but there must be a text or an image.

    Args:
        item_id: travels with the vector; not part of the content.
        title: plain text, at most 10,000 characters.
        description: plain text; only its first words are read (`preprocessing.json` says how many).
        attributes: plain text, e.g. ``"colour red; material wool"``.
        image: the file's bytes, a path below the loader's root, or a URI of an allowed scheme.
        price, category: read by item towers alone; `hash_content` leaves them out.
    """

    item_id: str
    title: str | None = None
    description: str | None = None
    attributes: str | None = None
    image: bytes | str | None = None
    price: float | None = None
    category: str | None = None

    @property
    def has_text(self) -> bool:
        """Whether any text field holds more than white space."""
        return any(text and not text.isspace() for text in (self.title, self.description, self.attributes))


@dataclass(frozen=True, slots=True)
class Reject:
    """An item left out of a batch; `detail` is for people and never holds the content."""

    item_id: str
    reason: Reason
    detail: str


def hash_content(item: Item, image: bytes | None) -> str:
    """32 hex digits of blake2b-128 over title, description, attributes and image bytes.

    Text is compared in NFC without outer white space, and an empty text equals None: a change that cannot
    change the vector should not cost an encoding.
    """
    digest = hashlib.blake2b(HASH_VERSION, digest_size=16)
    for text in (item.title, item.description, item.attributes):
        _feed(digest, canonical_text(text).encode("utf-8", "surrogatepass"))
    _feed(digest, image or b"")
    return digest.hexdigest()


def canonical_text(text: str | None) -> str:
    """NFC without outer white space; empty for None."""
    if not text:
        return ""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def _feed(digest: hashlib.blake2b, part: bytes) -> None:
    # The length goes first, so that text cannot move from one field to the next without changing the hash.
    digest.update(len(part).to_bytes(8, "little"))
    digest.update(part)
