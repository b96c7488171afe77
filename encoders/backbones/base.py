"""What a backbone is to the image tower, and which ones there are."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from moontide.errors import Misconfigured


class ImageBackbone(Protocol):
    """A network that sees a picture. An `nn.Module` too.

    Attributes:
        width: W, of a pooled row.
    """

    width: int

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float32 in 0..1 -> (B, W), not normalised."""
        ...

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, h, w): what was seen where."""
        ...


def load_backbone(name: str, *, pretrained: bool = True) -> nn.Module:
    """An `ImageBackbone` by the name a config gives it.

    Args:
        name: ``lite0``, ``scratch`` or ``hf:PATH_OR_NAME``.
        pretrained: False: the same shape with random weights, where there is one.

    Raises:
        Misconfigured: an unknown name, or weights that are not installed.
    """
    if name == "scratch":
        from encoders.backbones.scratch import SmallResNet

        return SmallResNet()
    if name == "lite0":
        from encoders.backbones.lite import EfficientNetLite0

        return EfficientNetLite0.pretrained() if pretrained else EfficientNetLite0()
    if name.startswith("hf:"):
        from encoders.backbones.huggingface import load_image_backbone

        module: nn.Module = load_image_backbone(name.removeprefix("hf:"))
        return module
    raise Misconfigured(f"model.backbone: expected lite0, scratch or hf:PATH_OR_NAME, got {name!r}")
