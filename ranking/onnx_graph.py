"""A trained ranker as one ONNX graph that was compared with torch.

Its inputs are the fields of `ranking.batch.Batch` that the model reads, but for the rows of the vector table: a served model
gets the vectors themselves, ``vectors`` (G, K, D) and ``history_vectors`` (G, L, D), float32 unit vectors or zeros, from the
store. G, K and L are free. The output is ``logits`` (G, K).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.export import export_module
from encoders.onnx_guard import check_model
from encoders.sessions import open_session
from moontide.errors import Misconfigured
from ranking.batch import Batch
from ranking.contract import FILES
from ranking.models.base import Ranker, VectorTable
from ranking.models.din import IdEmbedding

#: Largest difference of a logit from torch's.
TOLERANCE: Final = 1e-5
INPUTS: Final = ("item", "history", "present", "scalars", "counts", "vectors", "history_vectors")
#: Groups, candidates and behaviours of cuts that are compared.
CUTS: Final = ((1, 1, 1), (1, 3, 2), (2, 1, 4))

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Exported:
    """ONNX bytes and the largest difference from torch that was measured."""

    model: bytes
    difference: float


class _Slot:
    """Holds what is no state of a module: torch looks into lists, not in here."""

    rows: Tensor


class _Given(nn.Module):
    """In the place of a `VectorTable`: its rows are those of the call."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.slot = _Slot()

    @property
    def rows(self) -> Tensor:
        """(1 + G K + G L, D), row 0 zero."""
        return self.slot.rows

    def forward(self, at: Tensor) -> Tensor:
        return nn.functional.embedding(at, self.slot.rows)


class _Known(nn.Module):
    """Item numbers past the end of the table are read as row 0, which training gave to items it has not seen."""

    def __init__(self, items: IdEmbedding) -> None:
        super().__init__()
        self.items = items

    def forward(self, item: Tensor) -> Tensor:
        last: int = self.items.row.shape[0]
        known: Tensor = self.items(torch.where(item < last, item, torch.zeros_like(item)))
        return known


class _Served(nn.Module):
    """A copy of a ranker whose inputs are `INPUTS`."""

    def __init__(self, model: Ranker, dim: int) -> None:
        super().__init__()
        self.given = _Given(dim)
        tables = {id(part): self.given for part in model.modules() if isinstance(part, VectorTable)}
        items = {id(part): _Known(copy.deepcopy(part)) for part in model.modules() if isinstance(part, IdEmbedding)}
        self.model = copy.deepcopy(model, {**tables, **items}).eval()

    def forward(
        self, item: Tensor, history: Tensor, present: Tensor, scalars: Tensor, counts: Tensor, vectors: Tensor,
        history_vectors: Tensor,
    ) -> Tensor:  # fmt: skip
        dim = self.given.dim
        candidates, behaviours = vectors.reshape(-1, dim), history_vectors.reshape(-1, dim)
        self.given.slot.rows = torch.cat([torch.zeros(1, dim), candidates, behaviours])
        vector = _numbered(vectors, 1)
        batch = Batch(
            item=item, vector=vector, valid=torch.ones_like(item, dtype=torch.bool), history=history,
            history_vector=_numbered(history_vectors, 1 + candidates.shape[0]), present=present, scalars=scalars, counts=counts,
            label=torch.zeros_like(item, dtype=torch.float32), labels=scalars[:, :, :0],
        )  # fmt: skip
        logits: Tensor = self.model(batch)
        return logits


def _numbered(vectors: Tensor, first: int) -> Tensor:
    """(G, n) numbers from `first` on of (G, n, D); 0 where the vector is zero."""
    groups, count = vectors.shape[0], vectors.shape[1]
    numbers = torch.arange(groups * count).reshape(groups, count) + first
    return torch.where((vectors != 0).any(dim=2), numbers, torch.zeros_like(numbers))


def export_graph(model: Ranker, batches: Sequence[Batch], table: VectorTable | None, *, dim: int) -> Exported:
    """One graph of a trained ranker, compared with torch on real batches and on cuts of the first.

    Args:
        model: trained; not changed.
        batches: what is compared; the first has 2 groups, 3 candidates and 4 behaviours or more, and makes the graph.
        table: the vectors of the batches; None for models over ids alone.
        dim: D of the space.

    Raises:
        Misconfigured: a logit differs from torch's by more than `TOLERANCE`, or the graph is none that serving accepts.
    """
    served = _Served(model, dim)
    examples = [feeds_of(batch, table, dim) for batch in batches]
    data = _traced(served, examples[0])
    check_model(data, name=FILES.model)
    session = open_session(data, threads=1, name=FILES.model)
    names = [put.name for put in session.get_inputs()]

    def distance(feeds: Arrays, wanted: NDArray[np.float32], there: NDArray[np.bool_]) -> float:
        got = session.run(None, {name: feeds[name] for name in names})[0]
        return float(np.abs(got - wanted)[there].max(initial=0))

    worst = [distance(f, _scored(model, b), b.valid.numpy()) for f, b in zip(examples, batches, strict=True)]
    for feeds in (_cut(examples[0], *sizes) for sizes in CUTS):
        with torch.inference_mode():
            wanted = served(*(torch.from_numpy(feeds[name]) for name in INPUTS)).numpy()
        worst.append(distance(feeds, wanted, np.ones(wanted.shape, bool)))
    if not max(worst) <= TOLERANCE:
        raise Misconfigured(
            f"{FILES.model}: expected logits within {TOLERANCE} of torch's, got {max(worst):.2e}; an operator means something "
            "else in ONNX: compare the model's parts one by one"
        )
    return Exported(data, max(worst))


def feeds_of(batch: Batch, table: VectorTable | None, dim: int) -> dict[str, NDArray[Any]]:
    """A batch as the inputs of the graph, all of `INPUTS`."""
    rows = torch.zeros(1, dim) if table is None else table.rows
    vectors, history = (rows[torch.zeros_like(at) if table is None else at] for at in (batch.vector, batch.history_vector))
    fields = (batch.item, batch.history, batch.present, batch.scalars, batch.counts, vectors, history)
    return {name: np.ascontiguousarray(value.numpy()) for name, value in zip(INPUTS, fields, strict=True)}


def _scored(model: Ranker, batch: Batch) -> NDArray[np.float32]:
    was = model.training
    model.eval()
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(batch).numpy()
    model.train(was)
    return logits


def _cut(feeds: Arrays, groups: int, candidates: int, behaviours: int) -> dict[str, NDArray[Any]]:
    """The first groups and candidates with the newest behaviours; the first candidate is an item nobody knows."""
    by_history = ("history", "present", "history_vectors")
    made = {n: v[:groups, -behaviours:] if n in by_history else v[:groups, :candidates] for n, v in feeds.items()}
    made = {name: np.ascontiguousarray(value) for name, value in made.items()}
    made["item"] = made["item"].copy()
    made["item"][:, 0] = 1 << 40
    return made


def _traced(served: _Served, feeds: Arrays) -> bytes:
    groups, candidates, behaviours = (torch.export.Dim(name, min=1) for name in ("groups", "candidates", "behaviours"))
    long = {0: groups, 1: behaviours}
    shapes = {name: long if name in ("history", "present", "history_vectors") else {0: groups, 1: candidates} for name in INPUTS}
    data = export_module(served, tuple(torch.from_numpy(feeds[name]) for name in INPUTS), shapes, store=False, output="logits")
    model = onnx.load_from_string(data)
    used = {name for node in model.graph.node for name in node.input}
    for put in [put for put in model.graph.input if put.name not in used]:
        model.graph.input.remove(put)
    pruned: bytes = model.SerializeToString(deterministic=True)
    return pruned
