"""Item fields in, vectors out: any ONNX model over what a catalog says of items. No torch, no images opened.

B items, D the space's dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from encoders.base import ItemEncoder, Progress, no_progress
from encoders.item import Item, Reject
from encoders.sessions import open_session
from encoders.tower_artifact import MODEL, TowerArtifact
from encoders.tower_inputs import Input, TowerInputs
from encoders.variants import Choice
from moontide.errors import Misconfigured
from moontide.spaces import EmbeddingSpace

#: Rows of one call of the model.
BATCH: Final = 1_024
NUMBER_TYPES: Final = {"tensor(float)": np.float32, "tensor(double)": np.float64}
ID_TYPES: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


@dataclass(frozen=True, slots=True)
class TowerPrepared:
    """Items as inputs of the model.

    Attributes:
        ids: (B,) the items, in their order; every item can be encoded.
        content_hashes: (B,) 32 hex digits over the fields that are read.
        arrays: (B, F) each, by the name of the input.
        rejects: none.
    """

    ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    arrays: dict[str, NDArray[Any]]
    rejects: tuple[Reject, ...] = ()


class TowerModel:
    """A tower's session, checked to fit the description of its inputs.

    Args:
        model: ONNX bytes that `check_model` let pass.
        inputs: the description.
        threads: of one call.

    Raises:
        Misconfigured: names, types or shapes differ, the batch is of one size, or the output is no matrix of floats.
    """

    def __init__(self, model: bytes, inputs: TowerInputs, *, threads: int) -> None:
        self._session = open_session(model, threads=threads, name=MODEL)
        there = {value.name: value for value in self._session.get_inputs()}
        wanted = {each.name: each for each in inputs.inputs}
        if there.keys() != wanted.keys():
            raise Misconfigured(
                f"{MODEL}: expected the inputs {sorted(wanted)} of the description, got {sorted(there)}; correct inputs.toml"
            )
        self._casts = {name: (_input_type(there[name], each), len(there[name].shape)) for name, each in wanted.items()}
        self._output = self._chosen_output(inputs.output)

    @property
    def width(self) -> int | None:
        """Numbers of a vector as the model states it; None: it does not."""
        width = self._output.shape[-1]
        return width if isinstance(width, int) else None

    def __call__(self, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """(B, D) float32 of (B, F) arrays, B >= 1."""
        feeds = {}
        for name, (kind, rank) in self._casts.items():
            values = arrays[name].astype(kind)
            feeds[name] = values[:, 0] if rank == 1 else values
        return np.asarray(self._session.run([self._output.name], feeds)[0], np.float32)

    def _chosen_output(self, name: str) -> ort.NodeArg:
        outputs = {value.name: value for value in self._session.get_outputs()}
        if (not name and len(outputs) != 1) or (name and name not in outputs):
            raise Misconfigured(f"{MODEL}: expected output {name or 'alone'}, got {sorted(outputs)}; name one in inputs.toml")
        found = outputs[name] if name else next(iter(outputs.values()))
        # A shape that was not inferred has no rank here; running it tells.
        if found.type not in NUMBER_TYPES or len(found.shape) not in (0, 2):
            raise Misconfigured(f"{MODEL}: output {found.name}: expected floats (B, D), got {found.type} {found.shape}")
        return found


class ItemTower(ItemEncoder[TowerPrepared]):
    """The item tower of a pre-ranking model, or any ONNX model over item fields, as the encoder of a space."""

    def __init__(self, artifact: TowerArtifact, *, threads: int = 1) -> None:
        """Use `encoders.Encoder.load`.

        Raises:
            Misconfigured: the model does not fit its description, or the space's dim.
        """
        self.artifact = artifact
        self._model = TowerModel(artifact.model, artifact.inputs, threads=threads)
        if self._model.width not in (None, self.space.dim):
            raise Misconfigured(f"{MODEL}: expected vectors of {self.space.dim} numbers, got {self._model.width}; make it again")

    @property
    def space(self) -> EmbeddingSpace:
        """Space of every vector this tower makes."""
        return self.artifact.manifest.space

    @property
    def precision(self) -> Choice:
        """fp32: a tower has no other."""
        return Choice("fp32")

    def content_hash(self, item: Item) -> str:
        """32 hex digits over the fields that are read; a picture counts by whether there is one."""
        return self.artifact.inputs.hash(item, None)

    def prepare(self, items: Sequence[Item], *, progress: Progress = no_progress) -> TowerPrepared:
        """Fields looked up and standardised, and their hash; nothing is opened."""
        hashes = []
        for row, item in enumerate(items):
            progress(row, False)
            hashes.append(self.content_hash(item))
            progress(row, True)
        return TowerPrepared(tuple(item.item_id for item in items), tuple(hashes), self.artifact.inputs.arrays(items))

    def floats(self, prepared: TowerPrepared) -> NDArray[np.float32]:
        """As `ItemEncoder.floats`."""
        out = np.zeros((len(prepared.ids), self.space.dim), np.float32)
        for start in range(0, len(out), BATCH):
            part = slice(start, start + BATCH)
            out[part] = self._model({name: values[part] for name, values in prepared.arrays.items()})
        return out


def _input_type(found: ort.NodeArg, wanted: Input) -> type[Any]:
    """The dtype the model wants for an input that fits."""
    types, width = (ID_TYPES if wanted.ids else NUMBER_TYPES), len(wanted.columns)
    where = f"{MODEL}: input {found.name}"
    if found.type not in types:
        raise Misconfigured(
            f"{where}: expected {' or '.join(sorted(types))} for {'ids' if wanted.ids else 'numbers'}, got {found.type}; "
            "cast it inside the model"
        )
    shape = list(found.shape)
    fits = len(shape) == 1 and width == 1
    if not fits and (len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width)):
        raise Misconfigured(f"{where}: expected shape (B, {width}){' or (B,)' if width == 1 else ''}, got {shape}")
    if isinstance(shape[0], int):
        raise Misconfigured(f"{where}: expected a batch of any size, got {shape[0]} rows; export it with a dynamic first axis")
    return types[found.type]
