"""What a request is given: `Features` of C candidates, as arrays that are not copied on the way out (N tiers, D dims)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide import names, schemas
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from moontide.live import Service
from moontide.simtier import TierCounts
from moontide.stores.base import OnlineStore
from moontide.views import user_sequence
from serving.prefetch import Prefetch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Features:
    """One row per candidate, in the order asked for.

    Attributes:
        item_ids: C ids.
        vectors: C vectors as codes and scales; not present where the item has none.
        tiers: counts (C, N) int32 and missing (C,) int32.
        fields: the service's item fields by name, C values each, null where there is none.
        metadata: ``service``, ``space``, ``encoder_digest``, ``simtier``, ``sequence_version`` and ``prefetch`` (where the user
            side came from: `serving.prefetch.Prefetch`).
    """

    item_ids: tuple[str, ...]
    vectors: Embeddings
    tiers: TierCounts
    fields: Mapping[str, pa.Array | pa.ChunkedArray]
    metadata: dict[str, str]

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """(C, D) float32, ``codes * scale``; zero where not present. Made at the first use."""
        return self.vectors.to_float()

    @property
    def present(self) -> NDArray[np.bool_]:
        """(C,) bool: whether the item has a vector."""
        return self.vectors.present

    @property
    def counts(self) -> NDArray[np.int32]:
        """(C, N) int32, behaviours per tier."""
        return self.tiers.counts

    @property
    def missing(self) -> NDArray[np.int32]:
        """(C,) int32, behaviours in no tier."""
        return self.tiers.missing

    def to_arrow(self) -> pa.Table:
        """The table that `RankingClient.features` promises. Vectors, counts and missing are this object's own memory."""
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            names.ITEM_ID: pa.array(self.item_ids, pa.string()),
            "embedding": vector_column(self.vectors.space.dim, self.embeddings, self.present),
            "embedding_present": pa.array(self.present),
            "counts": pa.FixedSizeListArray.from_arrays(pa.array(self.counts.ravel()), self.counts.shape[1]),
            "missing": pa.array(self.missing),
            **self.fields,
        }
        return pa.table(columns).replace_schema_metadata(self.metadata)

    def to_torch(self) -> dict[str, torch.Tensor]:
        """Tensors over this object's own memory; writing to one writes here.

        Returns:
            ``embedding`` (C, D) float32 (zero where not present), ``embedding_present`` (C,) bool, ``counts`` (C, N) int32,
            ``missing`` (C,) int32, and each numeric or bool item field as (C,) float32, NaN where null. Text fields are left out.

        Raises:
            Misconfigured: torch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise Misconfigured("to_torch: expected torch, got none; install it, or use the numpy arrays") from error
        arrays: dict[str, NDArray[np.generic]] = {
            "embedding": self.embeddings,
            "embedding_present": self.present,
            "counts": self.counts,
            "missing": self.missing,
        }
        arrays |= {name: number for name, values in self.fields.items() if (number := _numbers(values)) is not None}
        return {name: torch.from_numpy(_writable(values)) for name, values in arrays.items()}


def metadata_of(service: Service, sequence_version: int, prefetch: Prefetch = Prefetch.OFF) -> dict[str, str]:
    """What every answer says of itself: see `Features.metadata`."""
    return {
        "service": service.name,
        "space": service.space.id,
        "encoder_digest": service.space.encoder_digest,
        "simtier": service.simtier.spec_id,
        "sequence_version": str(sequence_version),
        "prefetch": prefetch.value,
    }


def sequence_table(store: OnlineStore, service: Service, user_id: str, length: int | None) -> pa.Table:
    """What `RankingClient.sequence` promises, of a user id and a length that were checked."""
    found = store.read_sequences(user_sequence(service.simtier.sequence), [user_id])[0]
    seen = found.behaviours if length is None else found.behaviours[-length:]
    vectors = store.read_embeddings(service.space, [b.item_id for b in seen])
    columns = {
        names.ITEM_ID: pa.array([b.item_id for b in seen], pa.string()),
        "action": pa.array([b.action for b in seen], pa.string()),
        names.EVENT_TIMESTAMP: pa.array([b.time for b in seen], pa.int64()).cast(schemas.TIMESTAMP),
        "embedding": vector_column(service.space.dim, vectors.to_float(), vectors.present),
        "embedding_present": pa.array(vectors.present),
    }
    return pa.table(columns).replace_schema_metadata(metadata_of(service, found.version))


def vector_column(dim: int, vectors: NDArray[np.float32], present: NDArray[np.bool_]) -> pa.Array:
    """(B, D) float32 as fixed_size_list<float32>[D], null where not present."""
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, dim, mask=None if present.all() else pa.array(~present))


def _numbers(values: pa.Array | pa.ChunkedArray) -> NDArray[np.float32] | None:
    kind = values.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    found: NDArray[np.float32] = pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _writable(values: NDArray[np.generic]) -> NDArray[np.generic]:
    # torch has no read-only tensors: rather a copy than a write into memory that is shared.
    return values if values.flags.writeable else values.copy()
