"""A small residual network without any pretraining: the baseline of what the pictures at hand alone can teach."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of two 3x3 convolutions; `stride` 2 halves the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, stride=stride)
        self.second = conv_norm(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else conv_norm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, outputs, S / stride, S / stride)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.skip(x))


class SmallResNet(nn.Module):
    """An `ImageBackbone` of 1.6 million parameters; S may be any multiple of 32."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 224)) -> None:
        super().__init__()
        self.width = widths[-1]
        self.stem = conv_norm(3, widths[0], stride=2)
        blocks: list[nn.Module] = []
        for at, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            blocks.append(Block(inputs, outputs, 2))
            blocks.extend(Block(outputs, outputs, 1) for _ in range(1 if at else 0))
        self.blocks = nn.Sequential(*blocks)

    def feature_map(self, x: Tensor) -> Tensor:
        """As `ImageBackbone`."""
        # A fixed centring would do for contrast, but lamps differ: each picture is centred by itself.
        mean = x.mean(dim=(2, 3), keepdim=True)
        centred = (x - 0.5 - 0.5 * (mean - 0.5)) * 4.0
        maps: Tensor = self.blocks(torch.relu(self.stem(centred)))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """As `ImageBackbone`."""
        return self.feature_map(x).mean(dim=(2, 3))


def conv_norm(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    """A convolution without bias and its batch norm, as one pair that an exporter can fold."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=eps))
