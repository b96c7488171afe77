"""What of an item the vectors of a space depend on: the content hash, and what must be the same where two vectors may be."""

from __future__ import annotations

from typing import Final, Protocol

from encoders.item import Item, hash_content


class ContentReader(Protocol):
    """What one kind of encoder reads of an item. Pure: no image is opened.

    Attributes:
        scheme: readers of one scheme give one hash; content known under one of them is known under the others.
    """

    @property
    def scheme(self) -> tuple[str, ...]:
        """Names the hash."""

    def hash(self, item: Item, image: bytes | None) -> str:
        """32 hex digits that change when what is read of the item does; `image` is the bytes of its picture."""

    def lean(self, item: Item) -> Item:
        """An item with the same hash and vector that carries no more than is read of it."""

    def model_key(self, item: Item) -> bytes:
        """Equal where the model is given equal inputs; the item's image, if any, is bytes or stands for itself."""


class WholeContent:
    """Title, description, attributes and image: what a MOON encoder reads."""

    @property
    def scheme(self) -> tuple[str, ...]:
        """As `ContentReader.scheme`."""
        return ()

    def hash(self, item: Item, image: bytes | None) -> str:
        """As `encoders.hash_content`."""
        return hash_content(item, image)

    def lean(self, item: Item) -> Item:
        """The item itself."""
        return item

    def model_key(self, item: Item) -> bytes:
        """The content hash."""
        return hash_content(item, item.image.encode() if isinstance(item.image, str) else item.image).encode()


WHOLE_CONTENT: Final = WholeContent()
