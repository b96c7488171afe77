"""A network as it is served: normalisation folded into the convolutions, weights on the grid an artifact stores."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

#: Shortest sum (inputs of one output) whose weights bear int8; depthwise filters and a stem of three colours do not.
INT8_FAN_IN: Final = 32
#: Smallest tensor worth storing as codes and a scale.
INT8_SIZE: Final = 4_096
#: Least share of a tensor's largest weight that the largest weight of an output counts as: of a dead output, codes mean nothing.
WEAKEST: Final = 1e-4
#: Smallest tensor worth storing in half precision.
HALF_SIZE: Final = 256


def fold(module: nn.Module) -> None:
    """Fuse, in place, every convolution that a batch norm follows in an `nn.Sequential`; of use in `eval` mode only.

    A subclass of `nn.Conv2d` stays one, so padding of its own is kept.
    """
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for (_, first), (name, second) in list(pairwise(parent.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(first.eval(), second.eval())
                first.weight, first.bias = fused.weight, fused.bias
                parent.register_module(name, nn.Identity())


def round_weights(module: nn.Module) -> None:
    """Move, in place, each weight of convolutions and linear layers to the value the artifact will hold.

    Convolutions have 8 bits and a scale for each output where their sums are long, all else half precision.

    A frozen backbone that is rounded before training costs nothing at export: what was trained on is what is served.
    Rounding again changes nothing but a last bit. Call `fold` first: norms change the weights.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                layer.weight.copy_(_rounded(layer.weight))


def _rounded(weight: Tensor) -> Tensor:
    rows = weight.flatten(1)
    if weight.numel() < HALF_SIZE:
        return weight
    if weight.dim() < 3 or weight.numel() < INT8_SIZE or rows.shape[1] < INT8_FAN_IN:
        return weight.half().float()
    top = rows.abs().amax(dim=1, keepdim=True)
    scale = torch.maximum(top, WEAKEST * top.max()) / 127.0
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (torch.round(rows / scale) * scale).view_as(weight)
