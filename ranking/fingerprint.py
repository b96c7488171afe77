"""What examples hold, as a digest: checkpoints and multimodal models belong to it, whatever their files are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranking.examples import Examples

_BYTES: Final = 16


def fingerprint(examples: Examples, *, vectors: bool) -> str:
    """32 hex digits over the values that training reads: items, requests, histories, labels, scalars, split and vectors.

    Tier counts are left out: they follow from the rest and from the configuration, and models that differ in tiers share
    what was trained without them. A million impressions take below half a second.

    Args:
        vectors: the model reads them; without, sets that differ in vectors only have one digest.
    """
    data, split = examples.data, examples.split
    named: dict[str, NDArray[Any]] = {
        "request": data.request, "request_user": data.request_user, "request_time": data.request_time, "item": data.item,
        "label": data.label, "history_items": data.history_items, "history_offsets": data.history_offsets,
        "scalars": examples.scalars, "labels": examples.labels, "train": split.train, "validation": split.validation,
        "test": split.test,
    }  # fmt: skip
    if vectors and data.vectors is not None:
        held = data.vectors
        named |= {
            "vector": data.vector, "history_vectors": data.history_vectors, "codes": held.codes, "inv_norm": held.inv_norm,
            "present": held.present,
        }  # fmt: skip
    state = hashlib.blake2b(digest_size=_BYTES)
    state.update(json.dumps([ids_digest(data.item_ids), examples.names, examples.length, split.times]).encode())
    for name, values in named.items():
        state.update(f"{name}:{values.dtype.str}:{values.shape};".encode())
        state.update(np.ascontiguousarray(values).reshape(-1).data)
    return state.hexdigest()


def ids_digest(ids: Sequence[str]) -> str:
    """32 hex digits over ids and their order: what the rows of an embedding stand for."""
    return hashlib.blake2b(json.dumps(list(ids)).encode(), digest_size=_BYTES).hexdigest()
