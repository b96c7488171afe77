"""What the consumer asks of an encoder: errors are values, and an input that kills the encoder is one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from encoders import Item
from encoders.content import ContentReader
from moontide.embeddings import Embeddings
from moontide.spaces import EmbeddingSpace


class Fault(StrEnum):
    """Why an item has no vector although its content looked fine. Values are stable: they label metrics and dead letters."""

    ENCODER_CRASHED = "encoder_crashed"
    ENCODER_TIMED_OUT = "encoder_timed_out"
    ENCODER_OUT_OF_MEMORY = "encoder_out_of_memory"
    VECTOR_NOT_FINITE = "vector_not_finite"
    VECTOR_ZERO = "vector_zero"
    VECTOR_COLLAPSED = "vector_collapsed"


@dataclass(frozen=True, slots=True)
class Refused:
    """One item that was not encoded: `reason` is a `Fault` or an `encoders.Reason`, `detail` is for people."""

    reason: str
    detail: str
    attempts: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """B items handed in: `vectors` holds those that were encoded, in order, with their ids; `refused` the others, by row."""

    vectors: Embeddings
    rows: tuple[int, ...]
    refused: dict[int, Refused]


class StreamEncoder(Protocol):
    """Encoder of one space, safe from its inputs. Used by one thread.

    Attributes:
        reads: what of an item its vectors depend on.
        restarts: how often its child was started again.
        on_call: called before each try of a batch or of a part of it; each try is bounded in time.
    """

    reads: ContentReader
    restarts: int
    on_call: Callable[[], None]

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector."""

    def encode(self, items: Sequence[Item]) -> Encoded:
        """Vectors of B >= 0 items whose images, if any, are bytes.

        Raises:
            Transient: the encoder itself is broken (it cannot even encode a known good item); nothing is known about `items`.
        """

    def close(self) -> None:
        """Stop the child."""
