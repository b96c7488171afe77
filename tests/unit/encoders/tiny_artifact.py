"""A tiny random image encoder as an artifact: no text tower, side 32, dim 16; for tests of export, variants and runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from encoders.artifact import LAYOUT, Manifest, Preprocessing, save_artifact
from encoders.export import OPSET, Exported, export_parts
from encoders.export_int8 import int8_variant
from encoders.folding import fold, round_weights
from encoders.sample_inputs import smooth_pictures
from encoders.tokenizer import TokenizerConfig
from moontide import EmbeddingSpace

SIDE, DIM = 32, 16


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(width, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64))
        self.narrow = nn.Sequential(nn.Conv2d(64, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.relu(self.wide(x)))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32))
        self.blocks = nn.Sequential(Residual(32), Residual(32))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(nn.functional.relu6(self.stem(x))).mean(dim=(2, 3))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(32, DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.head(self.backbone(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0))
        return rows / rows.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()


def tower() -> Tower:
    """Folded and rounded, as a frozen backbone is."""
    torch.manual_seed(0)
    made = Tower().eval()
    fold(made)
    round_weights(made)
    return made


def fusion() -> bytes:
    """Adds what is present; by hand, for the exporter takes seconds."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Add", ["image", "text"], ["sum"]),
        helper.make_node("ReduceMax", ["present", "axis"], ["any"]),
        helper.make_node("Mul", ["sum", "any"], ["vectors"]),
    ]
    inputs = [value(name, 1, ["batch", width]) for name, width in (("image", DIM), ("text", DIM), ("present", 2))]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(nodes, "fusion", inputs, [value("vectors", 1, ["batch", DIM])], [axis])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10).SerializeToString()


def exported() -> Exported:
    """The image tower exported; its variant and a fusion beside it."""
    made = export_parts({LAYOUT.image_model: (tower(), {"pixels": smooth_pictures(6, SIDE)})})
    feeds = [{"pixels": smooth_pictures(16, SIDE, seed=1)}]
    variant = int8_variant(made.models[LAYOUT.image_model], feeds, within="backbone.")
    models = {**made.models, LAYOUT.fusion_model: fusion(), LAYOUT.image_int8: variant}
    return dataclasses.replace(made, models=models)


def write(
    folder: Path, models: Mapping[str, bytes], *, core_crop: bool = False, dim: int = DIM, **manifest: Any
) -> EmbeddingSpace:
    return save_artifact(
        folder, models, tokenizer=TokenizerConfig(), preprocessing=Preprocessing(SIDE, SIDE, core_crop=core_crop),
        manifest=Manifest(EmbeddingSpace("tiny", 1, dim), OPSET, **manifest),
    )  # fmt: skip
