"""A trained `Moon` as three ONNX files: convolutions fused, text table in int8, other weights in half precision."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from encoders.artifact import LAYOUT
from encoders.towers import Block, ImageTower, Moon, TextTower

OPSET: Final = 18
_HALF_FROM: Final = 1024


class _Pixels(nn.Module):
    """(B, H, W, 3) uint8 -> (B, D)."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0)


class _Tokens(nn.Module):
    """(B, L) int32 ids and (B, L) uint8 kinds -> (B, D), from an int8 table whose row scale carries the term weight."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower
        table = tower.table.detach()
        scale = table.abs().amax(dim=1, keepdim=True) / 127.0
        self.register_buffer("codes", torch.round(table / scale).to(torch.int8))
        self.register_buffer("weights", scale * torch.exp(tower.log_term.detach())[:, None])
        del tower.table, tower.log_term

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.get_buffer("codes")).to(torch.float32)
        return self.tower.pool(rows, functional.embedding(ids, self.get_buffer("weights")), kinds.int())


def export_models(model: Moon, *, side: int) -> dict[str, bytes]:
    """ONNX bytes by `Layout` name; every first dimension is dynamic."""
    frozen = copy.deepcopy(model).eval()
    _fuse(frozen.image)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1)
    ids, kinds = torch.zeros(3, 7, dtype=torch.int32), torch.ones(3, 7, dtype=torch.uint8)
    pixels = torch.zeros(3, side, side, 3, dtype=torch.uint8)
    towers = (torch.zeros(3, model.dim), torch.zeros(3, model.dim), torch.ones(3, 2))
    rows = {0: batch}
    return {
        LAYOUT.image_model: _export(_Pixels(frozen.image), (pixels,), {"pixels": rows}),
        LAYOUT.text_model: _export(
            _Tokens(frozen.text), (ids, kinds), {name: {0: batch, 1: length} for name in ("ids", "kinds")}
        ),
        LAYOUT.fusion_model: _export(frozen.fusion, towers, dict.fromkeys(("image", "text", "present"), rows)),
    }


def _export(module: nn.Module, inputs: tuple[Tensor, ...], shapes: Mapping[str, Mapping[int, object]]) -> bytes:
    # The exporter tells at length which packages it did not find and that two inputs share their batch.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            module.eval(), inputs, dynamo=True, opset_version=OPSET, input_names=list(shapes),
            output_names=["vectors"], dynamic_shapes=dict(shapes), external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _half(model.graph)
    _strip(model)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _half(graph: onnx.GraphProto) -> None:
    """Store large float32 weights as float16; onnxruntime widens them once, at load."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _HALF_FROM:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _strip(model: onnx.ModelProto) -> None:
    """Drop traces of the machine that exported: they would change the digest from one checkout to the next."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _fuse(tower: ImageTower) -> None:
    tower.stem = _fused(tower.stem)
    for block in tower.blocks:
        assert isinstance(block, Block)
        block.first, block.second = _fused(block.first), _fused(block.second)
        if isinstance(block.skip, nn.Sequential):
            block.skip = _fused(block.skip)


def _fused(pair: nn.Sequential) -> nn.Sequential:
    conv, norm = pair
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    return nn.Sequential(fuse_conv_bn_eval(conv, norm))
