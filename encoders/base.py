"""What every encoder does with what it prepared: one quantisation, and the choice between an error and a list of rejects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.item import Item, Reject, Unencodable
from moontide.embeddings import Embeddings
from moontide.spaces import EmbeddingSpace

#: Called with an item's row, and False before or True after it is read and decoded; from any thread.
Progress = Callable[[int, bool], None]


def no_progress(row: int, done: bool) -> None:
    """The `Progress` of whoever does not ask."""


class Ready(Protocol):
    """Items that only need the model."""

    @property
    def ids(self) -> tuple[str, ...]:
        """(B,) ids of the items that can be encoded, in their order."""

    @property
    def content_hashes(self) -> tuple[str, ...]:
        """(B,) 32 hex digits each."""

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """The items left out."""


P = TypeVar("P", bound=Ready)


class ItemEncoder(ABC, Generic[P]):
    """Items to vectors of one space. Thread-safe; build one per process, after a fork, never before."""

    @property
    @abstractmethod
    def space(self) -> EmbeddingSpace:
        """Space of every vector this encoder makes."""

    @abstractmethod
    def content_hash(self, item: Item) -> str:
        """32 hex digits that change when what the encoder reads of the item does; decodes nothing.

        Raises:
            Unencodable: the image cannot be read.
            Transient: an object store failed.
        """

    @abstractmethod
    def prepare(self, items: Sequence[Item], *, progress: Progress = no_progress) -> P:
        """All that is not the model: reading, decoding, hashing. CPU and I/O only: overlaps with `run` in a thread.

        Args:
            items: B >= 0 items.
            progress: told of each item, so that whoever watches knows the one that a decoder dies of.

        Raises:
            Transient: an object store failed.
        """

    @abstractmethod
    def floats(self, prepared: P) -> NDArray[np.float32]:
        """(B, D) before quantisation.

        For measuring what quantisation costs; whatever is stored or compared comes from `run`.
        """

    def run(self, prepared: P) -> Embeddings:
        """The model alone, and one quantisation of what it gives.

        Raises:
            Poison: a vector that is not finite.
        """
        return Embeddings.from_float(self.space, self.floats(prepared), ids=prepared.ids)

    def encode(self, items: Sequence[Item]) -> Embeddings:
        """(B, D) vectors of B >= 0 items, with their ids, in order.

        A row depends on its own item only, up to float noise: the same item in another batch can differ by one
        unit in a code of a few rows in a thousand.

        Raises:
            Unencodable: the first item that cannot be encoded; a `Poison` with its `reason`.
            Transient: an object store failed.
        """
        prepared = self.prepare(items)
        if prepared.rejects:
            first = prepared.rejects[0]
            raise Unencodable(first.reason, f"item {first.item_id[:80]!r}: {first.detail}; reject it and go on")
        return self.run(prepared)

    def encode_or_reject(self, items: Sequence[Item]) -> tuple[Embeddings, list[Reject]]:
        """Vectors of the items that can be encoded, in order, and the others as values.

        Raises:
            Transient: an object store failed; nothing is known about the items then.
        """
        prepared = self.prepare(items)
        return self.run(prepared), list(prepared.rejects)
