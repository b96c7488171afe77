"""What one request was made from, read with its versions, and its row of the request log (`moontide.request_log`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.embeddings import Embeddings
from moontide.live import Service
from moontide.request_log import ITEM_FIELDS, ITEM_VERSION, REQUEST_LOG, VERSION, vector_digests
from moontide.sequences import BehaviourSequence
from moontide.simtier import TierCounts, tier_counts
from moontide.stores.base import OnlineStore
from moontide.stores.versioned import Versioned, read_vectors, read_versioned
from moontide.views import item_features, user_sequence


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What one request of C candidates was made from, each part with the records it was read in.

    `candidates` (C rows) and `tiers` are what `moontide.features.request_tiers` gives; `read` has the records of the candidates,
    then of the history; `fields` has the service's item fields by name, C values each.
    """

    user_id: str
    sequence: BehaviourSequence
    candidates: Embeddings
    tiers: TierCounts
    read: Versioned
    items: Versioned
    fields: dict[str, pa.Array]


def read_served(store: OnlineStore, service: Service, user_id: str, ids: list[str]) -> Served:
    """Everything `RankingClient.features` reads, in as many reads, with versions.

    Raises:
        SpaceMismatch: the store holds another space's vectors.
    """
    spec = service.simtier
    sequence = store.read_sequences(user_sequence(spec.sequence), [user_id])[0]
    vectors, read = read_vectors(store, service.space, [*ids, *sequence.item_ids[-spec.length :]])
    candidates, history = vectors.take(slice(0, len(ids))), vectors.take(slice(len(ids), None))
    tiers = tier_counts(candidates, history, spec)
    items = read_versioned(store, item_features(), ids if service.item_fields else [])
    fields = {name: _values(items, name) for name in service.item_fields}
    return Served(user_id, sequence, candidates, tiers, read, items, fields)


def log_row(service: Service, served: Served, served_at: int, request_id: str) -> pa.Table:
    """One row of `REQUEST_LOG`."""
    count, found = len(served.candidates), served.candidates
    versions = _versions(served.read, VERSION)
    behaviours = served.sequence.behaviours
    columns: dict[str, Any] = {
        "request_id": request_id,
        "user_id": served.user_id,
        "service": service.name,
        "space": service.space.id,
        "encoder_digest": service.space.encoder_digest,
        "simtier": service.simtier.spec_id,
        "sequence_version": served.sequence.version,
        "sequence_item_ids": [b.item_id for b in behaviours],
        "sequence_actions": [b.action for b in behaviours],
        "sequence_times": [b.time for b in behaviours],
        "item_ids": list(found.ids or ()),
        "embedding_present": found.present.tolist(),
        "vector_digests": vector_digests(found.codes, found.scale, found.present),
        "fields": [name for name in served.fields if name in ITEM_FIELDS],
    }
    whole: dict[str, pa.Array] = {
        "served_at": pa.array([served_at], pa.int64()).cast(REQUEST_LOG.field("served_at").type),
        "history_versions": _one(versions.slice(count)),
        "versions": _one(versions.slice(0, count)),
        "counts": _one(pa.array(served.tiers.counts.ravel())),
        "missing": _one(pa.array(served.tiers.missing)),
        "item_versions": _one(_versions(served.items, ITEM_VERSION)),
    }
    for name, column in ITEM_FIELDS.items():
        kind = REQUEST_LOG.field(column).type
        whole[column] = _one(served.fields[name]).cast(kind) if name in served.fields else pa.nulls(1, kind)
    arrays = [whole[f.name] if f.name in whole else pa.array([columns[f.name]], f.type) for f in REQUEST_LOG]
    return pa.table(arrays, schema=REQUEST_LOG)


def _one(values: pa.Array) -> pa.Array:
    """All values as the list of one row."""
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def _versions(read: Versioned, kind: pa.StructType) -> pa.Array:
    """(B,) structs, null where there is no record."""
    at = pa.array(np.maximum(read.at, 0))
    parts = [_taken(read.records[field.name], at, len(read.at)).cast(field.type) for field in kind]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=pa.array(read.at < 0))


def _values(items: Versioned, name: str) -> pa.Array:
    """(C,) values of an item field, null where there is no record or a tombstone."""
    at = pa.array(np.maximum(items.at, 0))
    gone = _taken(items.records["deleted"], at, len(items.at)).to_numpy(zero_copy_only=False).astype(bool) | (items.at < 0)
    values = _taken(items.records[name], at, len(items.at))
    return pc.if_else(pa.array(gone), pa.scalar(None, values.type), values)


def _taken(column: pa.ChunkedArray, at: pa.Array, count: int) -> pa.Array:
    if not len(column):
        return pa.nulls(count, column.type)
    taken = column.combine_chunks().take(at)
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
