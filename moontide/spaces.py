"""Embedding spaces: what decides whether two vectors may be compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from moontide import names
from moontide.errors import Misconfigured, SpaceMismatch

MAX_DIM: Final = 32_768
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Metric(StrEnum):
    """How two vectors of a space are compared."""

    COSINE = "cosine"


class Codec(StrEnum):
    """How a vector of a space is stored. `INT8`: round after per-vector max scaling, codes in -127..127."""

    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """An immutable space of comparable vectors.

    Args:
        name: family of the space, ``[a-z][a-z0-9]*``, e.g. ``moon``.
        version: rises with every change of encoder or preprocessing, from 1.
        dim: width D of a vector.
        encoder_digest: ``sha256:<hex>`` over model, tokenizer and preprocessing; empty only for vectors made elsewhere.
        prefix_of: 0, or the parent's dim where this is a Matryoshka prefix (`prefix`), which has no store of its own.

    Raises:
        Misconfigured: a field outside these rules.
    """

    name: str
    version: int
    dim: int
    encoder_digest: str = ""
    codec: Codec = Codec.INT8
    metric: Metric = Metric.COSINE
    prefix_of: int = 0

    def __post_init__(self) -> None:
        if not names.is_space_name(self.name):
            raise Misconfigured(f"space name: expected [a-z][a-z0-9]* of at most 24 characters, got {self.name!r}")
        if self.version < 1:
            raise Misconfigured(f"space version: expected 1 or more, got {self.version}")
        if not 1 <= self.dim <= MAX_DIM:
            raise Misconfigured(f"space dim: expected 1 to {MAX_DIM}, got {self.dim}")
        if self.encoder_digest and _DIGEST.fullmatch(self.encoder_digest) is None:
            raise Misconfigured(f"encoder_digest: expected 'sha256:' and 64 hex digits, got {self.encoder_digest!r}")
        object.__setattr__(self, "codec", Codec(self.codec))
        object.__setattr__(self, "metric", Metric(self.metric))

    @property
    def id(self) -> str:
        """``moon_v3``, or ``moon_v3_d64`` for a prefix: names the view, the collection and the records."""
        return f"{self.stored_id}_d{self.dim}" if self.prefix_of else self.stored_id

    @property
    def stored_id(self) -> str:
        """Id of the space whose store holds these vectors: itself, or the parent of a prefix."""
        return f"{self.name}_v{self.version}"

    @property
    def view(self) -> str:
        """Feast view that holds this space's vectors."""
        return names.embedding_view(self.stored_id)

    @property
    def collection(self) -> str:
        """Milvus collection that holds this space's vectors."""
        return names.collection(self.stored_id)

    @property
    def alias(self) -> str:
        """Milvus alias of the family."""
        return names.collection_alias(self.name)

    def prefix(self, dim: int) -> EmbeddingSpace:
        """The Matryoshka space of the first `dim` codes, with norms of its own.

        Raises:
            Misconfigured: `dim` is not smaller than this space's.
        """
        if not 1 <= dim < self.dim:
            raise Misconfigured(f"prefix of {self.id}: expected 1 to {self.dim - 1} dims, got {dim}")
        return EmbeddingSpace(
            self.name, self.version, dim, self.encoder_digest, self.codec, self.metric, self.prefix_of or self.dim
        )


def require_same_space(expected: EmbeddingSpace, got: EmbeddingSpace, *, where: str) -> None:
    """Raise `SpaceMismatch` unless both are the same space, digest included."""
    if expected != got:
        raise SpaceMismatch(
            f"{where}: expected space {describe(expected)}, got {describe(got)}; "
            "read both sides from one space (the feature service names it), or re-encode"
        )


def describe(space: EmbeddingSpace) -> str:
    """One line for messages: id, dim and the head of the digest."""
    return f"{space.id} (dim {space.dim}, encoder {space.encoder_digest[:15] or 'unnamed'})"
