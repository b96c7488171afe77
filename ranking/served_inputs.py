"""From what a `RankingClient` reads to the inputs of an exported graph, values as training got them. No torch.

C candidates, L behaviours, D dims, N tiers, F scalars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moontide.errors import Misconfigured
from ranking.contract import Contract

#: Scalars that the user's sequence tells (`moontide.pit.aggregates`), and those of the catalog that a service may have among its
#: item fields (`moontide.pit.item_columns`). Every other one comes from the caller.
FROM_SEQUENCE: Final = ("history_length", "bought_before")
FROM_CATALOG: Final = ("price", "has_image", "has_text")

Floats = NDArray[np.float32]


def inputs_of(
    contract: Contract,
    rows: Mapping[str, int],
    ids: Sequence[str],
    read: tuple[pa.Table, pa.Table],
    given: Mapping[str, Floats],
) -> dict[str, NDArray[Any]]:
    """One group of every input (`ranking.onnx_graph.INPUTS`).

    Args:
        contract: what the model was trained on.
        rows: rows of the item table by id.
        ids: C candidates.
        read: the tables of `RankingClient.features` and `RankingClient.sequence`.
        given: (C,) scalars of the caller, by name.

    Raises:
        Misconfigured: the service lacks an item field that the model reads.
    """
    table, seen = read
    kept = seen.column("item_id").to_pylist()
    window = seen.slice(max(0, len(kept) - contract.length))
    history = window.column("item_id").to_pylist()
    dim = contract.space.dim
    # One column of padding keeps the shapes of a user without a history.
    blank = 0 if history else 1
    numbers = _numbered([*ids, *history], rows, contract.items)
    values = {**given, **_found(contract, ids, kept, table)}
    scalars = [values[name] for name in contract.scalars]
    counted = [_matrix(table.column("counts")), np.asarray(table.column("missing").to_numpy())[:, None]]
    feeds = {
        "item": numbers[: len(ids)],
        "history": np.concatenate([np.zeros(blank, np.int64), numbers[len(ids) :]]),
        "present": np.repeat([False, True], [blank, len(history)]),
        "scalars": np.stack(scalars, axis=1) if scalars else np.zeros((len(ids), 0)),
        "counts": np.concatenate(counted, axis=1),
        "vectors": _unit(table.column("embedding"), dim),
        "history_vectors": np.concatenate([np.zeros((blank, dim), np.float32), _unit(window.column("embedding"), dim)]),
    }
    kinds = {"item": np.int64, "history": np.int64, "present": np.bool_}
    return {name: np.ascontiguousarray(values, kinds.get(name, np.float32))[None] for name, values in feeds.items()}


def _found(contract: Contract, ids: Sequence[str], kept: Sequence[str], table: pa.Table) -> dict[str, Floats]:
    """The scalars that the store holds, by name, as training got them."""
    bought = Counter(kept)
    counts = {"history_length": [len(kept)] * len(ids), "bought_before": [bought[item] for item in ids]}
    found = {name: np.log1p(np.array(values, np.float64)).astype(np.float32) for name, values in counts.items()}
    wanted = [name for name in FROM_CATALOG if name in contract.scalars]
    absent = [name for name in wanted if name not in table.column_names]
    if absent:
        raise Misconfigured(
            f"service {contract.service}: expected item fields {wanted}, got no {absent}; add them to "
            "item_fields of the service, or serve a model that was trained without them"
        )
    for name in wanted:
        values = pc.fill_null(table.column(name).cast(pa.float32()), 0).to_numpy()
        values = np.where(np.isfinite(values), values, np.float32(0))
        found[name] = np.log1p(np.maximum(values, 0)) if name == "price" else values
    return found


def _numbered(ids: Sequence[str], rows: Mapping[str, int], first: int) -> NDArray[np.int64]:
    """Rows of the item table; ids beyond it are numbered past its end, equal ids alike: the model reads them as unseen."""
    strange: dict[str, int] = {}
    return np.array([rows.get(i) or strange.setdefault(i, first + len(strange)) for i in ids], np.int64)


def _unit(column: pa.ChunkedArray, dim: int) -> Floats:
    """(B, D) float32 unit vectors; zeros where there is none."""
    values = _matrix(column).reshape(-1, dim).astype(np.float32)
    there = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool)
    values = np.where(there[:, None], values, np.float32(0))
    norm = np.sqrt(np.einsum("bd,bd->b", values, values, dtype=np.float64))
    return (values / np.where(norm > 0, norm, 1.0)[:, None]).astype(np.float32)


def _matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """(B, width) of a fixed-size list column; null rows hold whatever lies there."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    width = array.type.list_size
    flat = array.values.slice(array.offset * width, len(array) * width)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), width)
