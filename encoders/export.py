"""A trained `Moon` as ONNX files that were compared with it: convolutions folded, tables and large weights in int8."""

from __future__ import annotations

import copy
import dataclasses
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.artifact import LAYOUT
from encoders.export_int8 import int8_variant
from encoders.export_weights import shrink
from encoders.folding import fold
from encoders.item import Item
from encoders.sample_inputs import ITEMS, cosines, mixes, smooth_pictures
from encoders.sessions import open_session
from encoders.tokenizer import Tokens
from encoders.towers import ImageTower, Moon, TextTower
from moontide.errors import Misconfigured

OPSET: Final = 18
#: Least cosine between a vector of the float32 export and torch's.
TORCH_COSINE: Final = 1.0 - 1e-4
#: Least mean cosine between a model with its weights in int8 and the same in float32.
STORED_COSINE: Final = 0.98
#: Weights of the backbone begin so; colour and texture beside it need all their bits.
_BACKBONE: Final = "tower.backbone."
_CALIBRATION: Final = 256
#: Batches that are compared.
BATCHES: Final = (1, 5)

Arrays = Mapping[str, NDArray[np.generic]]
Rows = Callable[[Arrays], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Exported:
    """ONNX files, and how near they are to what they were made from; all by `Layout` name.

    Attributes:
        models: bytes; the int8 variant is among them where it was made.
        torch_cosine: least cosine of a vector of the float32 export with torch's.
        stored_cosine: least and mean cosine of the file's vectors, its weights in int8, with the float32 export's.
    """

    models: Mapping[str, bytes]
    torch_cosine: Mapping[str, float]
    stored_cosine: Mapping[str, tuple[float, float]]

    def summary(self) -> str:
        """One line a file, for people."""
        return "\n".join(
            f"{name}: {len(self.models[name]) / 1e6:.2f} MB, cosine with torch at least {least:.6f}, "
            f"int8 weights min {self.stored_cosine[name][0]:.5f} mean {self.stored_cosine[name][1]:.5f}"
            for name, least in self.torch_cosine.items()
        )


class _Pixels(nn.Module):
    """(B, H, W, 3) uint8 -> (B, D)."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0)


class TextPart(nn.Module):
    """(B, L) int32 ids, (B, L) uint8 kinds and what else the tokenizer makes -> (B, D)."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor, kinds: Tensor, *more: Tensor) -> Tensor:
        """Vectors of the tower."""
        return self.tower(ids.long(), kinds.long(), *more)


def export_models(
    model: Moon, tokenizer: Callable[[Sequence[Item]], Tokens], *, side: int, pictures: NDArray[np.uint8] | None = None
) -> Exported:
    """Export the three parts and compare each with torch, in batches of 1 and 5 and for every modality mix.

    Args:
        model: in any mode; it is copied, and the copy put into `eval`.
        tokenizer: the one of the artifact; the text tower is exported with the inputs it makes.
        side: pictures are side x side.
        pictures: (N >= 8, side, side, 3) uint8 of training, which also give the int8 variant its ranges; None: smooth
            random ones, and no such variant.

    Raises:
        Misconfigured: a vector differs from torch's, or int8 weights lose more than `STORED_COSINE` allows.
    """
    frozen = copy.deepcopy(model).eval()
    fold(frozen.image)
    pixels = smooth_pictures(len(ITEMS), side) if pictures is None else pictures[: len(ITEMS)]
    texts = tokenizer(ITEMS).inputs(np.arange(len(ITEMS)))
    image_part, text_part = _Pixels(frozen.image), TextPart(frozen.text)
    towers = mixes(_torch(image_part)({"pixels": pixels}), _torch(text_part)(texts))
    made = export_parts(
        {
            LAYOUT.image_model: (image_part, {"pixels": pixels}),
            LAYOUT.text_model: (text_part, texts),
            LAYOUT.fusion_model: (frozen.fusion, towers),
        }
    )
    if pictures is None:
        return made
    feeds = [{"pixels": pictures[at : at + 32]} for at in range(0, min(len(pictures), _CALIBRATION), 32)]
    variant = int8_variant(made.models[LAYOUT.image_model], feeds, within=_BACKBONE)
    return dataclasses.replace(made, models={**made.models, LAYOUT.image_int8: variant})


def export_parts(parts: Mapping[str, tuple[nn.Module, Arrays]]) -> Exported:
    """Export modules, each with example inputs of at least 6 rows under the names the file will use.

    Every first axis is dynamic; so is the second of ids and of what is as wide as they are.

    Raises:
        Misconfigured: as `export_models`.
    """
    models, exact, stored = {}, {}, {}
    for name, (module, examples) in parts.items():
        inputs = tuple(torch.from_numpy(np.ascontiguousarray(values)[:3]) for values in examples.values())
        plain = export_module(module, inputs, _dynamic(examples), store=False)
        models[name] = _stored(plain)
        ours, served = _onnx(plain, name), _onnx(models[name], name)
        exact[name] = float(_agreement(_torch(module), ours, examples).min())
        if not exact[name] >= TORCH_COSINE:
            raise Misconfigured(
                f"{name}: expected a cosine with torch of at least {TORCH_COSINE}, got {exact[name]:.6f}; "
                "an operator means something else in ONNX: compare the module's parts one by one"
            )
        kept = _agreement(ours, served, examples)
        stored[name] = (float(kept.min()), float(kept.mean()))
        if not stored[name][1] >= STORED_COSINE:
            raise Misconfigured(
                f"{name}: expected int8 weights to keep a mean cosine of {STORED_COSINE}, got {stored[name][1]:.5f}; "
                "round the weights before training (encoders.folding.round_weights)"
            )
    return Exported(models, exact, stored)


def export_module(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    shapes: Mapping[str, Mapping[int, object]],
    *,
    store: bool = True,
    output: str = "vectors",
) -> bytes:
    """One module as ONNX bytes of opset `OPSET`, the same on every machine.

    Args:
        module: what to trace, in any mode.
        inputs: examples, in the order of `shapes`.
        shapes: dynamic axes (`torch.export.Dim`) by input name.
        store: large weights in int8 and half precision.
        output: name of what comes out.
    """
    # The exporter tells at length which packages it did not find and that two inputs share their batch.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    # A module that takes more inputs than it names has them under one name.
    dynamic = tuple(dict(axes) for axes in shapes.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            module.eval(), inputs, dynamo=True, opset_version=OPSET, input_names=list(shapes),
            output_names=[output], dynamic_shapes=_as_called(module, dynamic), external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return _stored(data) if store else data


def _as_called(module: nn.Module, dynamic: tuple[object, ...]) -> tuple[object, ...]:
    return (*dynamic[:2], dynamic[2:]) if isinstance(module, TextPart) else dynamic


def _dynamic(examples: Arrays) -> dict[str, dict[int, object]]:
    rows, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1)
    wide = examples["ids"].shape if "ids" in examples else None
    return {name: {0: rows, 1: length} if values.shape == wide else {0: rows} for name, values in examples.items()}


def _stored(plain: bytes) -> bytes:
    model = onnx.load_from_string(plain)
    shrink(model.graph)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _strip(model: onnx.ModelProto) -> None:
    """Drop traces of the machine that exported: they would change the digest from one checkout to the next."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _torch(module: nn.Module) -> Rows:
    def run(feeds: Arrays) -> NDArray[np.float32]:
        with torch.no_grad():
            out: Tensor = module.eval()(*(torch.from_numpy(np.ascontiguousarray(values)) for values in feeds.values()))
            return out.numpy()

    return run


def _onnx(data: bytes, name: str) -> Rows:
    session = open_session(data, threads=1, name=name)

    def run(feeds: Arrays) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = session.run(None, dict(feeds))[0]
        return rows

    return run


def _agreement(a: Rows, b: Rows, examples: Arrays) -> NDArray[np.float64]:
    """Cosines of all rows, the examples taken in each of the batch sizes."""
    count = len(next(iter(examples.values())))
    found = []
    for size in BATCHES:
        for start in range(0, count, size):
            feeds = {name: values[start : start + size] for name, values in examples.items()}
            found.append(cosines(a(feeds), b(feeds)))
    return np.concatenate(found)
